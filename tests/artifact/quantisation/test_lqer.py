"""Corrections: the best of their rank, on the matrices that need them, and only where they fit."""

from dataclasses import replace

import pytest
import torch

from artifact.quantisation.lqer import best_product, correct, output_error
from artifact.quantisation.parts import put_back
from artifact.quantisation.recipe import Recipe, Role, quantise
from artifact.stored import Stored


def residual_and_hessian() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 80, 24, generator=generator)
    inputs = inputs @ torch.randn(3, 24, 24, generator=generator)
    return torch.randn(3, 16, 24, generator=generator), inputs.mT @ inputs


@pytest.mark.parametrize("rank", [1, 4, 99])
def test_no_product_of_its_rank_leaves_less(rank: int) -> None:
    """What is left are the squares of the output's smaller singular values; damping adds 1 %."""
    residual, hessian = residual_and_hessian()
    left, right = best_product(residual, hessian, rank)
    assert left.shape == (3, min(rank, 16), 16) and right.shape == (3, min(rank, 16), 24)
    values = torch.linalg.svdvals(residual @ torch.linalg.cholesky(hessian))
    least = values[:, rank:].square().sum(dim=-1)
    found = output_error(residual - left.mT @ right, hessian)
    slack = 0.02 * output_error(residual, hessian)
    assert (found <= least + slack).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_matrices_with_the_largest_errors_are_corrected(device: str) -> None:
    residual, hessian = (tensor.to(device) for tensor in residual_and_hessian())
    sizes = torch.tensor([1.0, 9.0, 3.0], device=device)
    weights = {"up_bank": residual * sizes[:, None, None]}
    hessians = {"up_bank": hessian / hessian.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]}
    stored = quantise(weights, {"up_bank": "mlp"}, Recipe(Role(4), Role(4)), hessians)
    made = correct(weights, stored, hessians, rank=2, matrices=2)
    assert sorted(made["up_bank.at"].values.tolist()) == [1, 2]
    before = {"up_bank": stored["up_bank"].restore()}
    after = put_back(before | {name: part.restore() for name, part in made.items()})
    assert after.keys() == before.keys()
    errors = [
        output_error(weights["up_bank"] - found["up_bank"], hessians["up_bank"])
        for found in (before, after)
    ]
    assert torch.equal(errors[0][0], errors[1][0])
    assert (errors[1][1:] < 0.95 * errors[0][1:]).all()
    assert correct(weights, stored, hessians, rank=2, matrices=0) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"w.at": torch.tensor([0.0, 3.0])},
        {"w.at": torch.tensor([0.0, -1.0])},
        {"w.at": torch.tensor([0.0, float("nan")])},
        {"w.at": torch.tensor([0.0])},
        {"w.at": torch.zeros(4), "w.left": torch.zeros(4, 2, 5), "w.right": torch.zeros(4, 2, 6)},
        {"w.left": torch.zeros(2, 2, 6)},
        {"w.right": torch.zeros(2, 3, 6)},
        {"w.left": torch.zeros(10)},
        {"w": torch.zeros(5, 6)},
        {"w": torch.zeros(())},
        {"w": None},
        {"w.right": None},
    ],
)
def test_a_correction_that_does_not_fit_is_refused(change: dict) -> None:
    sound = {
        "w": torch.zeros(3, 5, 6),
        "w.at": torch.tensor([0.0, 2.0]),
        "w.left": torch.ones(2, 2, 5),
        "w.right": torch.ones(2, 2, 6),
    }
    assert put_back(sound)["w"].sum() == 2 * 2 * 5 * 6
    changed = {name: part for name, part in (sound | change).items() if part is not None}
    with pytest.raises(ValueError, match="the correction of tensor w"):
        put_back(changed)


def test_what_a_bank_without_inputs_lost_stays_lost() -> None:
    stored = {"up_bank": Stored("fp16", torch.ones(1, 2, 2).half())}
    assert correct({"up_bank": torch.ones(1, 2, 2)}, stored, {}, 1, 1) == {}


def test_a_correction_is_of_what_the_columns_factors_leave() -> None:
    residual, hessian = residual_and_hessian()
    hessians = {"up_bank": hessian, "up_bank.rows": torch.rand(3, 16) + 0.1}
    weights, roles = {"up_bank": residual}, {"up_bank": "mlp"}
    recipe = Recipe(Role(4), Role(4), rate=2.0)

    def error(recipe: Recipe) -> torch.Tensor:
        stored = quantise(weights, roles, recipe, hessians)
        restored = put_back({name: part.restore() for name, part in stored.items()})
        assert restored.keys() == weights.keys()
        return output_error(residual - restored["up_bank"], hessian)

    assert (error(replace(recipe, rank=4, corrected=3)) < 0.9 * error(recipe)).all()


@pytest.mark.parametrize("columns", [torch.ones(3, 5), torch.ones(6), torch.ones(2, 6)])
def test_columns_that_do_not_fit_are_refused(columns: torch.Tensor) -> None:
    weights = {"w": torch.ones(3, 5, 6), "w.columns": 2 * torch.ones(3, 6)}
    assert torch.equal(put_back(weights)["w"], 2 * torch.ones(3, 5, 6))
    with pytest.raises(ValueError, match="the columns of tensor w"):
        put_back(weights | {"w.columns": columns})
    with pytest.raises(ValueError, match="the columns of tensor v"):
        put_back(weights | {"v.columns": columns})
