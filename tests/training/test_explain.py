"""``train.py --explain`` and a run's first lines say what the tables say, without a GPU."""

import math

import pytest
import torch
from rich.console import Console
from rich.table import Table

from data.inputs import Inputs
from errors import InputError
from kernels import operations
from kernels.attention import backward_prepare_hopper, qkv_hopper, schedule_hopper
from kernels.common import stationary
from kernels.routes import routes
from model.gpt import GPT
from model.plan import plan
from runtime.device import choose, sizes_of
from runtime.progress import Progress
from runtime.ranks import World
from runtime.startup import Startup
from settings import Settings
from settings.load import load_settings
from settings.variants import reachable
from tests.training.small import small_settings
from training.captured_steps import Cost
from training.explain import (
    explain,
    parameters_table,
    print_explanation,
    routes_table,
    variants_table,
    visits_table,
)
from training.memory import step_bytes
from training.opening import captured, expected, opening
from training.rank import Rank
from training.warm_up import warm_up

PROJECTIONS, OUTPUT = "projections of self_attention", "output of self_attention, backward"
FRONTIER = (
    *("--loop-layers", "3,4,5", "--num-loops", "2", "--parallel-from", "8"),
    *("--document-mask", "--stages", "[{until=0.35, loops=0}, {until=1.0}]"),
)


def settings(*arguments: str) -> Settings:
    return load_settings(["--preset", "sprint", *arguments], {})


def cells(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.columns[column].cells]


def columns(table: Table, *numbers: int) -> list[list[str]]:
    return [cells(table, number) for number in numbers]


def test_a_row_of_the_plan_is_a_visit():
    config = settings(*FRONTIER).architecture()
    table = visits_table(config, plan(config))
    assert "".join(cells(table, 1)) == "012345345" + "345678910"
    assert cells(table, 2) == ["serial"] * 14 + ["parallel"] * 3
    assert cells(table, 3)[8] == "visit 7, row 0"


def test_the_numbers_of_parameters_are_the_networks():
    config = small_settings().architecture()
    table = parameters_table(config)
    model = GPT(config, operations("reference"), dtype=torch.float32, max_seq_len=32, seed=1)
    numbers = {name: int(n.replace(",", "")) for name, n in zip(*columns(table, 0, 2), strict=True)}
    assert numbers == {name: p.numel() for name, p in model.named_parameters()}
    assert str(table.title).startswith(f"{sum(numbers.values()):,} parameters")


def test_a_row_of_the_variants_is_what_a_run_captures():
    chosen = settings(*FRONTIER)
    table = variants_table(chosen, 1)
    assert len(table.rows) == len(reachable(chosen)) == 2
    assert cells(table, 0) == ["100%", "35%"]
    assert cells(table, 4) == ["2", "0"]
    looped, plain = (step_bytes(variant, chosen, 1) for variant in reachable(chosen))
    assert 1.35 * plain < looped < 17 / 11 * plain


def test_the_estimated_memory_is_near_what_captures_took():
    """GiB of graphs on an H100: bench/results/step-variants-h100.md, and a sprint at 925313f."""
    chosen = settings("--loop-layers", "3,4,5", "--num-loops", "2", "--swarm-loops", "0")
    estimated = {each.loops: step_bytes(each, chosen, 1) / 2**30 for each in reachable(chosen)}
    assert estimated == pytest.approx({2: 15.57, 0: 10.36}, rel=0.06)


@pytest.mark.parametrize(
    ("changes", "slow"),
    [
        ((), set()),
        (("--model-dim", "1024", "--num-heads", "16"), {PROJECTIONS, OUTPUT, "mlp"}),
        (("--num-heads", "4"), {PROJECTIONS, OUTPUT, "attention"}),
        (("--num-kv-heads", "2"), {OUTPUT}),
        (("--mlp-mult", "2.875"), {"mlp"}),
    ],
    ids=["seed", "wide", "head dim 128", "groups of 4", "odd MLP"],
)
def test_a_fall_from_the_fastest_kernel_is_said(changes: tuple[str, ...], slow: set[str]):
    chosen = settings(*changes)
    table = routes_table(chosen)
    found = {name for name, why in zip(*columns(table, 0, 2), strict=True) if why}
    assert found == slow
    sizes = sizes_of(chosen.architecture())
    heads, pairs = (sizes.heads, sizes.kv_heads, sizes.head_dim), sizes.rope_dims // 2
    hidden = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    projected = qkv_hopper.heads_fit(*heads, pairs) and stationary.sizes_fit(sizes.width, hidden)
    assert projected == (PROJECTIONS not in slow)
    strips = backward_prepare_hopper.heads_fit(*heads)
    assert (strips and stationary.sizes_fit(sizes.width, sizes.width)) == (OUTPUT not in slow)
    group = sizes.heads // sizes.kv_heads
    assert schedule_hopper.heads_fit(group, sizes.head_dim, pairs) == ("attention" not in slow)
    assert stationary.sizes_fit(sizes.width, sizes.mlp) == ("mlp" not in slow)


@pytest.mark.parametrize("heads", [8, 7], ids=["whole steps", "half a step"])
def test_the_mlps_kernel_in_fp8_is_said(heads: int):
    """Steps of 128 terms: a width of 448 is for bf16 only."""
    sizes = (
        "--model-dim",
        f"{64 * heads}",
        "--num-heads",
        f"{heads}",
        "--num-kv-heads",
        f"{heads}",
    )
    given = (*sizes, "--mlp-mult", "2", "--stages", "[{until=1.0, precision='fp8'}]")
    found = dict(zip(*columns(routes_table(settings(*given)), 0, 1), strict=True))
    assert found["mlp"].endswith("forward in fp8")
    assert found["mlp"].startswith("Gluon" if heads == 8 else "Triton")


def test_agents_that_no_set_has_are_refused():
    with pytest.raises(InputError, match="set seed has no agent 'helth'"):
        explain(Settings(agents_off=["helth"]), 1)


def test_other_backends_are_said_to_be_slower():
    sizes = sizes_of(settings().architecture())
    assert all(route.missed for route in routes(sizes, "compiled", "cudnn"))


@pytest.mark.parametrize("width", ["60", "200"])
def test_the_explanation_fits_any_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    print_explanation(settings(*FRONTIER), 1)
    printed = capsys.readouterr().out
    assert "17 visits of 11 layers" in printed
    assert "2 variants of a step, for 1 GPU" in printed
    assert Console().width == int(width)


def test_a_run_begins_with_what_users_look_for(make_trainer, tmp_path):
    trainer = make_trainer()
    chosen, world = trainer.settings, World.single(torch.device("cpu"))
    backends = choose(chosen, world.device)
    rank = Rank(chosen, world, backends, None, Progress(None, None, enabled=False), Startup())
    stream = trainer.loader._stream
    said = ("the tokenizer folds case",)
    inputs = Inputs(stream, None, tmp_path, 4, 1, False, stream, "", said)  # pyright: ignore[reportArgumentType]
    lines = "\n".join(opening(rank, trainer, inputs))
    assert "note      the tokenizer folds case" in lines
    count = sum(math.prod(p.shape) for p in trainer.model.parameters())
    assert f"{count:,} parameters" in lines
    assert "backend reference, attention sdpa, float32" in lines
    assert f"{chosen.train_batch_tokens:,} tokens" in lines
    assert f"{len(stream):,} training tokens" in lines


def test_the_capture_of_a_variant_is_a_line():
    looped, plain = reachable(settings(*FRONTIER))
    line = captured(looped, Cost(seconds=1.26, bytes=3 * 2**29))
    assert line.endswith("2 loops, documents, 2 MTP heads: 1.3 s, 1.50 GiB of graphs' memory")
    assert "loops" not in captured(plain, Cost())


def test_expected_steps_follow_from_the_pace_of_each_stage(make_trainer):
    chosen = settings(*FRONTIER)
    looped, plain = reachable(chosen)
    line = expected(chosen, {looped: 0.1, plain: 0.05})
    assert "about 2,025 steps in 150 s, at 50.0, 100.0 ms a step" in line
    assert expected(small_settings(wallclock=0, iterations=7), {}) == "length    7 steps"
    trainer = make_trainer()
    paces = warm_up(trainer, 2)
    assert list(paces) == list(trainer.variants)
    assert all(0 < seconds < 60 for seconds in paces.values())
