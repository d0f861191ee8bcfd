"""Measure the parts of the open sprint, added one after another: what each brings.

    python -m bench parts --data DIR --seeds 1 --seeds-of-small 3
    python -m bench parts --data DIR --seeds 3 --parts gates lanes

The first row is preset ``sprint`` with the frontier's vocabulary, the last preset
``frontier-sprint``. Each has its part and all those before, and is compared with the row before at
equal seeds, if both are made. Each GPU makes one run after another, finished runs are not repeated,
and what follows ``--`` goes to every run. Rows also go to bench/results/open-sprint.json.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

from cyclopts import Parameter

from bench.harness.markdown import markdown
from bench.harness.options import option
from bench.harness.pairs import (
    FIRST_SEED,
    MOST_SEEDS,
    bits,
    counted,
    differing,
    ended,
    make,
    mean,
    paired,
    passed_on,
    plan,
    series,
    spread,
)
from bench.harness.record import Commit, earlier, provenance, write_table
from bench.harness.refusals import check_series
from bench.harness.runs import Summary, sound
from bench.studies.open_sprint import (
    ARTIFACT,
    AVERAGED,
    FIELDS,
    OF_ARTIFACT,
    RESULT,
    check_clock,
    keep,
)
from bench.studies.sprint import rows_of
from errors import InputError
from files import PROJECT
from settings.load import load_settings

OUT = PROJECT / "bench" / "results" / "open-sprint-parts.md"
FROM, TO = "sprint", "frontier-sprint"
# Settings of the two presets that differ, by the part that they belong to, in order.
PARTS: dict[str, tuple[str, ...]] = {
    "vocabulary": ("vocab_size", "calibration_tokens"),
    "MLP": ("mlp_mult", "leaky_slope"),
    "no tables": ("bigram_vocab_size", "ve_enabled"),
    "optimizer": (
        *("matrix_lr", "tied_embed_lr", "scalar_lr", "beta2", "muon_coefficients"),
        *("muon_row_norm", "muon_momentum", "muon_momentum_warmup_steps"),
    ),
    "weight decay": ("muon_wd", "adam_wd", "embed_wd"),
    "schedule": ("warmdown_share", "warmdown_iters", "min_lr", "ema_decay", "late_qat_threshold"),
    "further targets": ("mtp_num_heads", "mtp_targets"),
    "packed documents": ("document_mask", "train_seq_len", "window"),
    "gates": ("gate_window", "smear_window", "skip_gates"),
    "lanes": ("parallel_from",),
    "XSA": ("xsa_last_n", "qk_gain_init"),
    "windows": ("stages",),
    "near layers": ("near_layers", "near_window"),
    "quantising": (
        *("attention_bits", "mlp_bits", "attention_clip", "mlp_clip", "embed_clip"),
        *("quant_min_step", "quant_by_loss", "quant_trellis"),
    ),
    "test-time training": (
        *("ttt_enabled", "ttt_method", "ttt_chunk_tokens", "ttt_lora_rank", "ttt_lora_alpha"),
        *("ttt_lora_lr", "ttt_lora_weight_decay"),
    ),
}
COLUMNS = ("averaged", "artifact", "best")
SMALL = 0.002  # bits per byte: what a part brings is small below


def cumulative() -> dict[str, tuple[str, ...]]:
    """Return options of train.py by part: of it and of those before."""
    wanted = load_settings(["--preset", TO], {})
    found: dict[str, tuple[str, ...]] = {}
    options: tuple[str, ...] = ("--preset", FROM)
    for part, names in PARTS.items():
        added = (word for name in names for word in option(name, getattr(wanted, name)))
        found[part] = options = (*options, *added)
    # The same settings by their name, so that the row is the preset's.
    return {**found, list(found)[-1]: ("--preset", TO)}


def check_free(settings: Sequence[str]) -> None:
    """Raise InputError for a setting of a part, which would hold in some of the rows only."""
    for preset in (FROM, TO):
        given, own = (load_settings(["--preset", preset, *each]) for each in (settings, ()))
        for name in (name for names in PARTS.values() for name in names):
            if getattr(given, name) != getattr(own, name):
                raise InputError(f"{name}: a part sets it; leave it out")


def main(
    *settings: str,
    data: Path,
    seeds: int = 2,
    seeds_of_small: int = 0,
    parts: Annotated[list[str] | None, Parameter(choices=tuple(PARTS))] = None,
    runs: Path = Path("runs/parts"),
    out: Path = OUT,
    rows: Path = RESULT,
    commit: Commit = None,
) -> int:
    """Run what is not finished; after each run write the rows and the table.

    Args:
        settings: for train.py, after --
        data: the sprint's corpus as shards, of the frontier's vocabulary
        seeds: runs of each, from 1337 on
        seeds_of_small: of rows that then bring less than 0.002, and those before them; 0: no more
        parts: rows to make; all unless given
        runs: for run folders
        out: file for the table
        rows: file for the rows as JSON

    Returns:
        0; 1 if a run diverged; 130 or 143 if it was interrupted, with what is finished.

    Raises:
        InputError: settings that no run can have, or that a part sets; no possible seeds.
    """
    check_seeds_of_small(seeds, seeds_of_small)
    check_clock(TO, settings)
    check_free(settings)
    options = {name: each for name, each in cumulative().items() if name in (parts or PARTS)}
    base, most = ["--data", str(data), *settings], max(seeds, seeds_of_small)
    planned, every = (plan(base, count, options, runs) for count in (seeds, most))
    check_series([run.command for run in every], out, rows)
    earlier(rows, FIELDS)
    command = command_of(seeds, seeds_of_small, options if parts else (), settings)
    found: dict[str, list[Summary]] = {}

    def report() -> None:
        about = provenance(commit)
        for name, of in found.items():
            own = () if options[name] == ("--preset", TO) else options[name]
            made = rows_of(name, range(FIRST_SEED, FIRST_SEED + most), of)
            keep(rows, name, (*own, *settings), made, about)
        write_table(out, command, about, table(found))

    def work() -> None:
        make(planned, found, report)
        again = small(found) if most > seeds else set()
        make([run for run in every[len(planned) :] if run.variant in again], found, report)

    return ended(series(work, lambda: table(found) if found else ""), found)


def check_seeds_of_small(seeds: int, of_small: int) -> None:
    """Raise InputError unless rows that bring little get more seeds than the others, or no more."""
    if of_small and not seeds < of_small <= MOST_SEEDS:
        raise InputError(
            f"--seeds-of-small {of_small}: give more than --seeds {seeds}, at most {MOST_SEEDS}, "
            "or 0"
        )


def command_of(seeds: int, of_small: int, parts: Iterable[str], settings: Sequence[str]) -> str:
    """Return the command that gives a result again."""
    command = f"python -m bench parts --data DIR --seeds {seeds}"
    command += f" --seeds-of-small {of_small}" * (of_small > 0)
    command += f" --parts {named}" if (named := shlex.join(parts)) else ""
    return command + passed_on(settings)


def small(found: Mapping[str, Sequence[Summary]]) -> set[str]:
    """Return the parts that bring less than ``SMALL`` to each score, and the ones before them."""
    again: set[str] = set()
    for part, before in zip(PARTS, ("", *PARTS), strict=False):
        ours, theirs = paired(found.get(part, ()), found.get(before, ()))
        if ours and all(abs(each) < SMALL for each in brought(ours, theirs)):
            again |= {part, before}
    return again


def brought(ours: Sequence[Summary], theirs: Sequence[Summary]) -> list[float]:
    """Return mean differences of the scores of ``COLUMNS``, of runs at equal seeds."""
    names = zip(names_of(ours), names_of(theirs), strict=True)
    return [fmean(bits(ours, name)) - fmean(bits(theirs, its)) for name, its in names]


def table(found: Mapping[str, Sequence[Summary]]) -> str:
    """Return a Markdown table: each part, and what it brought against the one before.

    Args:
        found: of each part the runs of the same seeds in the same order, some of which may lack at
            the end.
    """
    heads = ["part", "n", "steps", "ms/step", "brought"]
    heads += [head for name in COLUMNS for head in (name, "brought", "p")]
    steps = zip(PARTS, ("", *PARTS), strict=False)
    rows = (cells(part, found[part], found.get(last)) for part, last in steps if part in found)
    return markdown([*heads, "evaluation s"], rows)


def cells(part: str, runs: Sequence[Summary], before: Sequence[Summary] | None) -> Iterator[str]:
    """Yield the cells of a part's row; ``before`` are the runs of the part before, if any."""
    good, earlier = sound(runs), sound(before or ())
    yield from (part, counted(runs))
    if not good:
        yield from "-" * (4 + 3 * len(COLUMNS))
        return
    ms = mean(good, "step_ms")
    yield from (f"{mean(good, 'steps'):.0f}", f"{ms:.2f}")
    yield f"{ms - mean(earlier, 'step_ms'):+.2f}" if earlier else "-"
    ours, theirs = paired(runs, before or ())
    for name, its in zip(names_of(good), names_of(earlier or good), strict=True):
        yield spread(bits(good, name))
        yield from differing(bits(ours, name), bits(theirs, its))
    yield f"{fmean(run['scores'][best_of(good)]['seconds'] for run in good):.1f}"


def names_of(runs: Sequence[Summary]) -> tuple[str, ...]:
    """Return the names of the scores of ``COLUMNS``."""
    return AVERAGED, ARTIFACT, best_of(runs)


def best_of(runs: Sequence[Summary]) -> str:
    """Return the name of the artifact's evaluation with the least mean."""
    names = [name for name in runs[0]["scores"] if name.startswith(OF_ARTIFACT)]
    return min(names, key=lambda name: fmean(bits(runs, name)))
