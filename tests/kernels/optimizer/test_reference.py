"""Muon's orthogonalisation and its choices, against linear algebra; AdamW is PyTorch's."""

import pytest
import torch
from torch import Tensor

from kernels.optimizer.reference import (
    LIMIT,
    AdamW,
    Muon,
    even_rows,
    newton_schulz,
    orthogonalise,
)

FP64 = torch.float64


def singular_values(matrices: Tensor, kind: str, steps: int = 5) -> Tensor:
    """Of the result, in the basis of ``matrices``; what lies off it is rounding."""
    result = orthogonalise(matrices, newton_schulz(kind, steps), FP64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    in_their_basis = left.mT @ result @ right.mT
    singular = in_their_basis.diagonal(dim1=-2, dim2=-1)
    assert (in_their_basis - torch.diag_embed(singular)).norm() < 1e-9 * result.norm()
    return singular


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 12, 40), (2, 40, 12)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=FP64)
    classic = singular_values(matrices, "classic")
    assert classic.min() > 0.3
    assert classic.max() < 1.3


def test_polar_express_brings_small_singular_values_to_one_as_well():
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(1, 16, 16, dtype=FP64))[0] for _ in range(2))
    spread = torch.logspace(-2, 0, 16, dtype=FP64)
    matrices = left @ torch.diag_embed(spread) @ right
    errors = {
        kind: float((singular_values(matrices, kind) - 1).abs().max())
        for kind in ("classic", "polar_express")
    }
    assert errors["polar_express"] < 0.15 < 0.3 < errors["classic"]
    assert float((singular_values(matrices, "polar_express", 9) - 1).abs().max()) < 1e-4


def test_polar_express_ends_in_the_cubically_convergent_polynomial():
    assert newton_schulz("polar_express", 9)[7:] == [LIMIT, LIMIT]
    assert len(newton_schulz("polar_express", 3)) == len(newton_schulz("classic", 3)) == 3


def row_by_row(update: Tensor, second: Tensor, beta2: float) -> Tensor:
    """NorMuon's update of (n, rows, cols), a row at a time; moves ``second`` (n, rows)."""
    result = torch.empty_like(update)
    for n, matrix in enumerate(update):
        for i, row in enumerate(matrix):
            second[n, i] = beta2 * second[n, i] + (1 - beta2) * (row @ row) / len(row)
            result[n, i] = row / second[n, i] ** 0.5
        result[n] *= matrix.norm() / result[n].norm()
    return result


@pytest.mark.parametrize(
    ("row_norm", "beta2", "cautious"),
    [(False, 0.0, False), (True, 0.0, False), (False, 0.9, False), (False, 0.9, True)],
    ids=["", "row norm", "normuon", "normuon, cautious"],
)
def test_muon_step_is_its_formula(row_norm, beta2, cautious):
    torch.manual_seed(0)
    bank = torch.randn(2, 12, 6, dtype=FP64)
    expected, momentum = bank.clone(), torch.zeros_like(bank)
    second = torch.zeros(2, 12, dtype=FP64)
    five = newton_schulz("classic", 5)
    options = {"row_norm": row_norm, "beta2": beta2, "cautious": cautious}
    muon = Muon({"g": {"b": bank}}, five, weight_decay={"g": 0.1}, dtype=FP64, **options)
    for _ in range(3):
        gradient = torch.randn_like(bank)
        bank.grad = gradient.clone()
        muon.step(lr={"g": 0.02}, beta=0.9)
        momentum = 0.9 * momentum + gradient
        nesterov = gradient + 0.9 * momentum
        if row_norm:
            nesterov = nesterov / nesterov.norm(dim=-1, keepdim=True)
        update = orthogonalise(nesterov, five, FP64)
        if beta2:
            update = row_by_row(update, second, beta2)
        decays = (update.sign() == expected.sign()) if cautious else torch.ones_like(update).bool()
        expected = torch.where(decays, (1 - 0.02 * 0.1) * expected, expected)
        expected -= 0.02 * 2**0.5 * update
    if beta2:
        torch.testing.assert_close(muon.second["b"], second[..., None])
    torch.testing.assert_close(bank, expected, rtol=1e-7, atol=1e-7)


def test_row_norm_makes_the_update_blind_to_the_scale_of_rows():
    torch.manual_seed(0)
    gradient = torch.randn(1, 8, 12, dtype=FP64)
    scales = torch.logspace(-2, 0, 8, dtype=FP64)[:, None]
    updates = {}
    for row_norm in (False, True):
        for name, factor in (("plain", 1.0), ("scaled", scales)):
            bank = torch.zeros(1, 8, 12, dtype=FP64)
            bank.grad = factor * gradient
            five = newton_schulz("classic", 5)
            muon = Muon({"g": {"b": bank}}, five, {"g": 0.0}, FP64, row_norm=row_norm)
            muon.step(lr={"g": 1.0}, beta=0.9)
            updates[row_norm, name] = bank
    assert (updates[True, "plain"] - updates[True, "scaled"]).norm() < 1e-3
    assert (updates[False, "plain"] - updates[False, "scaled"]).norm() > 0.5


def test_rows_without_an_update_stay_and_the_others_keep_the_norm():
    update = torch.zeros(2, 5, 8, dtype=FP64)
    update[0, :3] = torch.randn(3, 8, dtype=FP64, generator=torch.Generator().manual_seed(0))
    found = even_rows(update, torch.zeros(2, 5, 1, dtype=FP64), 0.95)
    assert not found[0, 3:].any()
    assert not found[1].any()
    torch.testing.assert_close(found[0].norm(), update[0].norm())
    norms = found[0, :3].norm(dim=-1)
    torch.testing.assert_close(norms, norms.mean().expand(3))


def test_cautious_adamw_decays_only_weights_that_its_update_shrinks():
    torch.manual_seed(0)
    weight, betas, eps, lr, decay = torch.randn(40, dtype=FP64), (0.9, 0.95), 1e-8, 0.02, 0.3
    ours = {"a": weight.clone()}
    mine = AdamW({"g": ours}, betas, eps, {"g": decay}, cautious=True)
    first, second, decayed = torch.zeros_like(weight), torch.zeros_like(weight), 0
    for step in range(1, 5):
        ours["a"].grad = torch.randn_like(weight)
        first = 0.9 * first + 0.1 * ours["a"].grad
        second = 0.95 * second + 0.05 * ours["a"].grad ** 2
        update = first / (1 - 0.9**step) / ((second / (1 - 0.95**step)).sqrt() + eps)
        same = update.sign() == weight.sign()
        weight = torch.where(same, (1 - lr * decay) * weight, weight) - lr * update
        mine.step({"g": lr})
        decayed += int(same.sum())
    assert 0 < decayed < 4 * 40
    torch.testing.assert_close(ours["a"], weight)
    torch.testing.assert_close(mine.second["a"], second)


def test_adamw_is_torchs():
    torch.manual_seed(0)
    ours = {"a": torch.randn(5, 3).requires_grad_(), "b": torch.randn(7).requires_grad_()}
    theirs = [p.detach().clone().requires_grad_() for p in ours.values()]
    groups = {name: {name: parameter} for name, parameter in ours.items()}
    mine = AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay={"a": 0.04, "b": 0.3})
    apart = [
        {"params": [p], "weight_decay": decay} for p, decay in zip(theirs, (0.04, 0.3), strict=True)
    ]
    reference = torch.optim.AdamW(apart, lr=0.02, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(6):
        for p, q in zip(ours.values(), theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mine.step({"a": 0.02, "b": 0.02})
        reference.step()
    for p, q in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
