"""Weights to a file and back: who is coded how, how exactly, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifact.export import export, load
from artifact.format.container import read
from artifact.grid import dequantise, nearest, row_steps
from artifact.quantisation.gptq import gptq
from artifact.quantisation.recipe import Recipe, Role, relative_error
from errors import InputError
from files import PROJECT
from model.parameters import stored_as
from settings.load import load_settings

ARCHITECTURE = {"layers": 2, "width": 32}
ROLES = {
    "qo_bank": "attention",
    "down_bank": "mlp",
    "tok_emb": stored_as("embed", (1024, 65)),
    "bigram_table": stored_as("table", (1024, 65)),
    "bigram_proj": stored_as("table", (1024, 64)),
    "mix": stored_as("table", (2, 2, 32)),
    "skips": "attention",  # of no element
    "scale": stored_as("table", ()),
    "huge": stored_as("table", (2,)),
}


def some_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "qo_bank": torch.randn(4, 32, 32, generator=generator) * 0.3,
        "down_bank": torch.randn(2, 32, 48, generator=generator),
        "tok_emb": torch.randn(1024, 65, generator=generator) * 0.01,
        "bigram_table": torch.randn(1024, 65, generator=generator),
        "bigram_proj": torch.randn(1024, 64, generator=generator),
        "mix": torch.randn(2, 2, 32, generator=generator),
        "skips": torch.empty(0, 32),
        "scale": torch.tensor(0.05),
        "huge": torch.tensor([1e6, 1.0]),
    }


def some_hessians() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 99, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    return {"qo_bank": inputs.mT @ inputs}


def test_each_weight_is_stored_by_its_role(tmp_path: Path) -> None:
    recipe = Recipe(Role(6), Role(5), Role(8), Role(7))
    export(tmp_path / "a", ARCHITECTURE, some_weights(), ROLES, recipe)
    found = {name: (s.role, s.kind) for name, s in read(tmp_path / "a")[1].items()}
    assert found == {
        "qo_bank": ("attention", "int6"),
        "down_bank": ("mlp", "int5"),
        "tok_emb": ("embed", "int8"),
        "bigram_table": ("table", "int7"),
        "bigram_proj": ("small", "fp16"),  # 65,536 elements are not more than 65,536
        "mix": ("small", "fp16"),
        "skips": ("small", "fp16"),
        "scale": ("small", "fp16"),
        "huge": ("small", "fp32"),
    }


def test_weights_come_back_as_quantised(tmp_path: Path) -> None:
    weights, hessians = some_weights(), some_hessians()
    recipe = Recipe(Role(6, 12.0), Role(6, min_step=0.1), Role(8), Role(8, 20.0), damping=0.02)
    export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe, hessians)
    architecture, restored = load(tmp_path / "a")
    expected = {name: weight.half().float() for name, weight in weights.items()}
    expected["huge"] = weights["huge"]
    steps = row_steps(weights["qo_bank"], 6, 12.0)
    codes = gptq(weights["qo_bank"], hessians["qo_bank"], steps, 6, 0.02)
    expected["qo_bank"] = dequantise(codes, steps)
    for name, role in (("down_bank", recipe.mlp), ("tok_emb", recipe.embed)):
        steps = row_steps(weights[name], role.bits, role.clip, role.min_step)
        expected[name] = dequantise(nearest(weights[name], steps, role.bits), steps)
    steps = row_steps(weights["bigram_table"], 8, 20.0)
    expected["bigram_table"] = dequantise(nearest(weights["bigram_table"], steps, 8), steps)
    assert architecture == ARCHITECTURE
    torch.testing.assert_close(restored, expected, rtol=0, atol=0)
    assert all(weight.dtype == torch.float32 for weight in restored.values())


def test_a_correction_travels_in_the_file(tmp_path: Path) -> None:
    weights, hessians = some_weights(), some_hessians()

    def output_error(recipe: Recipe) -> float:
        export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe, hessians)
        restored = load(tmp_path / "a")[1]
        assert restored.keys() == weights.keys()
        return relative_error(weights["qo_bank"], restored["qo_bank"], hessians["qo_bank"])

    coarse = Recipe(Role(3), Role(3))
    corrected = Recipe(Role(3), Role(3), rank=8, corrected=4)
    assert output_error(corrected) < 0.8 * output_error(coarse)


def test_the_loss_chooses_steps_of_rows_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same bytes, errors that the loss minds are a third of those by clips, or less."""
    monkeypatch.setattr("artifact.format.ans.SYMBOLS_A_LANE", 128)  # quicker
    generator = torch.Generator().manual_seed(3)
    weights = {
        "qo_bank": torch.randn(4, 64, 96, generator=generator),
        "tok_emb": torch.randn(128, 64, generator=generator),
        "bigram_table": torch.randn(64, 64, generator=generator),
    }
    roles = {"qo_bank": "attention", "tok_emb": "embed", "bigram_table": "table"}
    inputs = torch.randn(4, 300, 96, generator=generator)
    inputs *= torch.randn(96, generator=generator).exp()
    states = torch.randn(1, 300, 64, generator=generator)
    hessians = {
        "qo_bank": inputs.mT @ inputs,
        "qo_bank.rows": torch.randn(4, 64, generator=generator).mul(2).exp(),
        "tok_emb": states.mT @ states,
        "tok_emb.rows": torch.randn(1, 128, generator=generator).mul(2).exp() / 100,
    }

    def loss(recipe: Recipe) -> float:
        report = export(tmp_path / "a", {}, weights, roles, recipe, hessians, limit=16_000)
        assert 15_800 < report.bytes <= 16_000
        restored = load(tmp_path / "a")[1]
        assert restored.keys() == weights.keys()
        total = 0.0
        for name in ("qo_bank", "tok_emb"):
            change = (restored[name] - weights[name]).view(-1, *weights[name].shape[-2:])
            of_rows = ((change @ hessians[name]) * change).sum(-1)
            total += (of_rows * hessians[f"{name}.rows"]).sum().item()
        return total

    clips = Recipe(Role(8, 24.0), embed=Role(8, 24.0), table=Role(8, 24.0))
    by_loss = loss(replace(clips, rate=1.0))
    assert loss(replace(clips, rate=1.0, trellis=True)) < 0.92 * by_loss
    stored = read(tmp_path / "a")[1]
    kinds = {name: stored[name].kind for name in weights}
    assert kinds == {"qo_bank": "trellis8", "tok_emb": "trellis8", "bigram_table": "int8"}
    assert by_loss < loss(clips) / 3
    stored = read(tmp_path / "a")[1]
    # The file is the last export's: clips have no factors of columns.
    assert set(stored) == set(weights)
    export(tmp_path / "a", {}, weights, roles, replace(clips, rate=4.0), hessians)
    stored, restored = read(tmp_path / "a")[1], load(tmp_path / "a")[1]
    assert set(stored) == {*weights, "qo_bank.columns", "tok_emb.columns"}
    assert stored["tok_emb.columns"].values.shape == (64,)
    factors = stored["qo_bank.columns"].values.float()
    expected = stored["qo_bank"].restore() * factors[:, None]
    assert torch.equal(restored["qo_bank"], expected) and factors.unique().numel() > 4
    steps = stored["bigram_table"].scale
    assert steps is not None and torch.equal(steps, row_steps(weights["bigram_table"], 8, 24.0))
    small = roles | {"tok_emb": "small"}
    export(tmp_path / "a", {}, weights, small, replace(clips, rate=4.0), hessians)
    assert set(read(tmp_path / "a")[1]) == {*weights, "qo_bank.columns"}


def test_the_error_of_a_tensor_is_its_outputs(tmp_path: Path) -> None:
    weights, hessians = some_weights(), some_hessians()
    export(tmp_path / "a", ARCHITECTURE, weights, ROLES, Recipe(), hessians)
    stored = read(tmp_path / "a")[1]["qo_bank"]
    root = torch.linalg.cholesky(hessians["qo_bank"])
    change = (stored.restore() - weights["qo_bank"]) @ root
    expected = change.norm() / (weights["qo_bank"] @ root).norm()
    assert stored.error == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("share", [0.8, 1.2])
def test_a_limit_is_filled_and_not_passed(tmp_path: Path, share: float) -> None:
    weights = {"qo_bank": some_weights()["bigram_table"][None]}
    recipe = Recipe(Role(8, 24.0))
    free = export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe)
    limit = int(share * free.bytes)
    report = export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe, limit=limit)
    assert 0.99 * limit < report.bytes <= limit
    assert report.bytes == (tmp_path / "a").stat().st_size
    assert (report.factor > 1) == (share < 1)
    steps = read(tmp_path / "a")[1]["qo_bank"].scale
    assert steps is not None
    assert torch.equal(steps, row_steps(weights["qo_bank"], 8, 24.0 * report.factor))


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_rows_that_reach_their_largest_weight_fit_a_limit_too(tmp_path: Path, floor: float) -> None:
    weights = {"qo_bank": some_weights()["bigram_table"][None]}
    recipe = Recipe(Role(6, min_step=floor))
    free = export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe)
    report = export(
        tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe, limit=int(0.8 * free.bytes)
    )
    assert 0.99 * 0.8 * free.bytes < report.bytes <= 0.8 * free.bytes
    # A finer grid could only cut off what has a code now.
    larger = export(tmp_path / "a", ARCHITECTURE, weights, ROLES, recipe, limit=2 * free.bytes)
    stored = read(tmp_path / "a")[1]["qo_bank"]
    assert larger.bytes == pytest.approx(free.bytes, rel=0.1)
    assert stored.scale is not None
    change = (stored.restore() - weights["qo_bank"]).abs()
    assert (change <= 0.51 * stored.scale.float()[..., None]).all()


def test_report_counts_the_file(tmp_path: Path) -> None:
    report = export(tmp_path / "a", ARCHITECTURE, some_weights(), ROLES)
    assert report.bytes == (tmp_path / "a").stat().st_size == sum(report.streams.values())
    assert report.factor == 1.0
    assert report.seconds > 0


def test_settings_say_how() -> None:
    arguments = ["--preset", "tiny", "--attention-bits", "5", "--mlp-clip", "9", "--lqer-rank", "2"]
    arguments += ["--quant-min-step", "0.25", "--embed-bits", "7", "--no-quant-by-loss"]
    settings = load_settings(arguments, {})
    recipe = Recipe.of(settings)
    assert (recipe.attention.bits, recipe.attention.min_step) == (5, 0.25)
    assert (recipe.mlp.clip, recipe.mlp.min_step) == (9.0, 0.25)
    assert (recipe.embed.bits, recipe.embed.min_step, recipe.rank) == (7, 0.0, 2)
    assert recipe.rate == 0.0
    assert Recipe.of(load_settings(["--quant-by-loss"], {})).rate == 4.0


def test_mtp_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mtp_heads: multi-token-prediction"):
        export(tmp_path / "a", {}, {"mtp_heads": torch.ones(2, 4, 8)}, {"mtp_heads": "none"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_diverged_model_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="qo_bank is not finite"):
        export(tmp_path / "a", {}, {"qo_bank": torch.full((1, 2, 2), value)}, ROLES)


def test_a_model_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.format.header.MAX_DECODED", 1000)
    with pytest.raises(InputError, match=r"a: cannot be written: .* use a smaller model"):
        export(tmp_path / "a", {}, some_weights(), ROLES)


def test_loads_anywhere_with_the_file_and_the_code_alone(tmp_path: Path) -> None:
    """Another process, another working directory, and two packages of the project."""
    export(tmp_path / "a", ARCHITECTURE, some_weights(), ROLES)
    program = (
        "import sys, json; from pathlib import Path\n"
        "from artifact.export import load\n"
        "architecture, weights = load(Path('a'))\n"
        "names = {m.split('.')[0] for m in list(sys.modules)}\n"
        "tops = {path.name.split('.')[0] for path in Path(sys.argv[1]).iterdir()}\n"
        "used = names & tops\n"
        "total = sum(weight.double().sum().item() for weight in weights.values())\n"
        "print(json.dumps([architecture, sorted(used), total]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(PROJECT)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    total = sum(weight.double().sum().item() for weight in load(tmp_path / "a")[1].values())
    assert json.loads(run.stdout) == [
        ARCHITECTURE,
        ["artifact", "errors", "files", "reading"],
        total,
    ]
