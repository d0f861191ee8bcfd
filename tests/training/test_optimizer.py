"""Every parameter in exactly one group; Muon and AdamW against what their papers say."""

import pytest
import torch

from kernels import operations
from model.gpt import GPT
from tests.training.conftest import small_settings
from training.adamw import AdamW
from training.muon import Muon, newton_schulz, orthogonalise
from training.optimizer import Optimizer

EVERYTHING = {
    "gated_attention": True,
    "value_residual": True,
    "tie_embeddings": False,
    "mtp_num_heads": 2,
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all options"])
def test_every_parameter_is_in_exactly_one_group(changes):
    settings = small_settings(**changes)
    model = GPT(
        settings.architecture(),
        operations("reference"),
        dtype=torch.float32,
        max_seq_len=16,
        seed=0,
    )
    optimizer = Optimizer(model, settings, torch.float32)
    groups = [optimizer.muon.banks, *optimizer.adamw.groups.values()]
    grouped = sorted(name for group in groups for name in group)
    assert grouped == sorted(name for name, _ in model.named_parameters())
    assert {p.data_ptr() for group in groups for p in group.values()} == {
        p.data_ptr() for p in model.parameters()
    }
    if model.config.mtp_num_heads:
        assert "mtp_heads" in optimizer.adamw.groups["head"]


def test_adamw_is_torchs():
    torch.manual_seed(0)
    ours = {"a": torch.randn(5, 3).requires_grad_(), "b": torch.randn(7).requires_grad_()}
    theirs = [p.detach().clone().requires_grad_() for p in ours.values()]
    mine = AdamW({"g": ours}, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.04)
    reference = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.04)
    for _ in range(6):
        for p, q in zip(ours.values(), theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mine.step({"g": 0.02})
        reference.step()
    for p, q in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 12, 40), (2, 40, 12)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_directions(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    result = orthogonalise(matrices, newton_schulz("classic", 5), torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    in_their_basis = left.mT @ result @ right.mT
    singular = in_their_basis.diagonal(dim1=-2, dim2=-1)
    assert singular.min() > 0.3
    assert singular.max() < 1.3
    off_diagonal = in_their_basis - torch.diag_embed(singular)
    assert off_diagonal.norm() < 1e-9 * result.norm()


def test_muon_step_is_its_formula():
    torch.manual_seed(0)
    bank = torch.randn(2, 12, 6, dtype=torch.float64)
    expected, momentum = bank.clone(), torch.zeros_like(bank)
    five = newton_schulz("classic", 5)
    muon = Muon({"b": bank}, five, weight_decay=0.1, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn_like(bank)
        bank.grad = gradient.clone()
        muon.step(lr=0.02, beta=0.9)
        momentum = 0.9 * momentum + gradient
        update = orthogonalise(gradient + 0.9 * momentum, five, torch.float64)
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * 2**0.5 * update
    torch.testing.assert_close(bank, expected, rtol=1e-12, atol=1e-12)
