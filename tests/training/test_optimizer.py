"""Every parameter in exactly one group; AdamW is PyTorch's; state comes back."""

import pytest
import torch

from kernels import operations
from model.gpt import GPT
from tests.training.conftest import small_settings
from training.adamw import AdamW
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


def test_adamw_goes_on_from_its_tensors():
    """Its count of steps is among them, for that decides the next one's size."""
    settings = small_settings()
    runs = []
    for _ in range(2):
        model = torch.nn.Module()
        model.register_parameter("tok_emb", torch.nn.Parameter(torch.ones(3, 4)))
        runs.append((model, Optimizer(model, settings, torch.float32)))
    (model, optimizer), (other, resumed) = runs
    torch.manual_seed(0)
    for _ in range(3):
        model.tok_emb.grad = torch.randn(3, 4)
        optimizer.step(1.0, 0.9)
    with torch.no_grad():
        other.tok_emb.copy_(model.tok_emb)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(optimizer.tensors()[name])
    assert resumed.adamw.steps == 3
    other.tok_emb.grad = model.tok_emb.grad = torch.randn(3, 4)
    for each in (optimizer, resumed):
        each.step(1.0, 0.9)
    assert torch.equal(model.tok_emb, other.tok_emb)
