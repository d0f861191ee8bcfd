"""What a run will do, printed before it does it: ``train.py --explain``, without a GPU."""

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

import terminal
from data.inputs import vocabulary_of
from kernels.routes import routes
from model.config import Architecture
from model.parameters import parameters
from model.plan import Visit, plan
from runtime.device import choose_attention, choose_backend, sizes_of
from settings import Settings
from settings.stages import or_one
from settings.variants import Variant, accumulation_of, reachable, stage_variants, trains_in_fp8
from swarm.steering import agents_of
from training.memory import state_bytes, step_bytes


def explain(settings: Settings, ranks: int) -> None:
    """Print what a run on ``ranks`` GPUs will do; its data, if given, tell the vocabulary.

    Raises:
        InputError: the data folder has no tokenizer, or another than the settings say;
            ``agents_off`` names an agent that the set does not have.
    """
    agents_of(settings)
    if settings.data:
        found = vocabulary_of(settings.data, settings.tokenizer, *settings.vocabulary())
        settings = settings.with_vocabulary(*found)
    print_explanation(settings, ranks)


def print_explanation(settings: Settings, ranks: int) -> None:
    """Print visits, parameters, variants and kernels of a run on ``ranks`` GPUs."""
    out = terminal.console()
    config = settings.architecture()
    for table in (
        visits_table(config, plan(config)),
        parameters_table(config),
        variants_table(settings, ranks),
        routes_table(settings),
    ):
        terminal.show(table, out)
        out.print()


def table_of(
    title: str, columns: str, rows: Iterable[Sequence[object]], caption: str = ""
) -> Table:
    """Return a table; columns that begin with a digit sign, "#", are aligned to the right."""
    table = Table(title=title, caption=caption or None, title_justify="left", box=None)
    for column in columns.split(", "):
        justify = "right" if column.startswith("#") else "left"
        table.add_column(column.lstrip("#"), justify=justify)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def visits_table(config: Architecture, visits: Sequence[Visit]) -> Table:
    """Return the plan of visits, a row each."""
    rows = []
    for number, visit in enumerate(visits):
        skip = "" if visit.skip is None else f"visit {visit.skip}, row {visit.skip_row}"
        parts = ["XSA"] if visit.exclude_self else []
        if visit.layer in config.value_layers:
            parts.append("value embedding")
        window = visit.window or "all"
        rows.append((number, visit.layer, visit.block, skip, window, ", ".join(parts)))
    columns = "#visit, #layer, block, skip from, #window, with"
    return table_of(f"{len(visits)} visits of {config.num_layers} layers", columns, rows)


def parameters_table(config: Architecture) -> Table:
    """Return the parameters, a row each, with their sums."""
    specs = parameters(config)
    sizes = {spec.name: math.prod(spec.shape) for spec in specs}
    exported = sum(sizes[spec.name] for spec in specs if spec.storage != "none")
    rows = [
        (
            spec.name,
            " x ".join(map(str, spec.shape)),
            f"{sizes[spec.name]:,}",
            spec.rule,
            spec.storage,
        )
        for spec in specs
    ]
    title = f"{sum(sizes.values()):,} parameters, of which {exported:,} are exported"
    return table_of(title, "name, #shape, #number, optimizer rule, stored as", rows)


def variants_table(settings: Settings, ranks: int) -> Table:
    """Return the variants of a step that are captured, a row each, and the memory of a GPU."""
    stages = list(zip(or_one(settings.stages), stage_variants(settings), strict=True))
    rows = []
    for variant in reachable(settings):
        until = [
            f"{stage.until:.0%}" + (f" (rate x {stage.lr_factor:g})" if stage.lr_factor else "")
            for stage, each in stages
            if each == variant
        ]
        parts = accumulation_of(variant, settings, ranks)
        rows.append(
            (
                ", ".join(until) or "the swarm's choice",
                f"{variant.batch_tokens:,}",
                variant.seq_len,
                f"{parts} x {ranks}",
                variant.loops,
                sight(variant),
                "own" if variant.documents else "all",
                variant.heads,
                variant.precision,
                f"{step_bytes(variant, settings, ranks) / 2**30:.1f} GiB",
            )
        )
    kept = state_bytes(settings, ranks) / 2**30
    title = (
        f"{len(rows)} variant{'s' * (len(rows) > 1)} of a step, for {ranks} GPU{'s' * (ranks > 1)}"
    )
    columns = (
        "until, #tokens, #per window, #micro-batches, #loops, #sees, documents, #MTP heads, "
        "precision, #memory"
    )
    caption = f"besides {kept:.2f} GiB of weights, gradients, moments and averages; estimated"
    return table_of(title, columns, rows, caption)


def sight(variant: Variant) -> str:
    """Return the tokens that a position sees, and those that it sees in near layers."""
    near = f", near {variant.near_window}" if variant.near_window else ""
    return f"{variant.window or 'all'}{near}"


def routes_table(settings: Settings) -> Table:
    """Return the kernel of each operation on a Hopper GPU in bf16, a row each."""
    fp8 = trains_in_fp8(settings)
    backend = choose_backend(settings, True, True, fp8)
    attention = choose_attention(settings.attention_backend, backend, on_gpu=True)
    found = routes(sizes_of(settings.architecture()), backend, attention, fp8)
    rows = [(route.operation, route.kernel, route.missed) for route in found]
    return table_of("Kernels on a Hopper GPU", "operation, kernel, slower because", rows)
