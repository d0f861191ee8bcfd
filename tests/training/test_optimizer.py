"""Every parameter in exactly one group; settings reach the update; state comes back."""

import pytest
import torch

from kernels import operations
from model.gpt import GPT
from settings import Settings
from tests.training.small import small_settings
from training.optimizer import Optimizer

EVERYTHING = {
    "gated_attention": True,
    "value_residual": True,
    "tie_embeddings": False,
    "mtp_num_heads": 2,
}


def make_model(settings: Settings) -> GPT:
    ops = operations("reference")
    return GPT(settings.architecture(), ops, dtype=torch.float32, max_seq_len=16, seed=0)


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all options"])
def test_every_parameter_is_in_exactly_one_group(changes):
    settings = small_settings(**changes)
    model = make_model(settings)
    optimizer = Optimizer(model, settings, torch.float32)
    groups = [optimizer.muon.banks, *optimizer.adamw.groups.values()]
    grouped = sorted(name for group in groups for name in group)
    assert grouped == sorted(name for name, _ in model.named_parameters())
    assert {p.data_ptr() for group in groups for p in group.values()} == {
        p.data_ptr() for p in model.parameters()
    }
    if model.config.mtp_num_heads:
        assert "mtp_heads" in optimizer.adamw.groups["head"]


def test_adamw_goes_on_from_its_tensors():
    """Its count of steps is among them, for that decides the next one's size."""
    settings = small_settings()
    runs = []
    for _ in range(2):
        model = make_model(settings)
        runs.append((model, Optimizer(model, settings, torch.float32)))
    (model, optimizer), (other, resumed) = runs
    torch.manual_seed(0)
    for _ in range(3):
        model.tok_emb.grad = torch.randn_like(model.tok_emb)
        optimizer.step(1.0, 0.9)
    with torch.no_grad():
        other.tok_emb.copy_(model.tok_emb)
    for name, tensor in resumed.tensors().items():
        tensor.copy_(optimizer.tensors()[name])
    assert resumed.adamw.steps == 3
    other.tok_emb.grad = model.tok_emb.grad = torch.randn_like(model.tok_emb)
    for each in (optimizer, resumed):
        each.step(1.0, 0.9)
    assert torch.equal(model.tok_emb, other.tok_emb)


def test_tables_and_heads_decay_by_embed_wd_and_the_others_by_adam_wd():
    for given, expected in (({}, 0.02), ({"embed_wd": 0.0}, 0.0), ({"embed_wd": 0.5}, 0.5)):
        settings = small_settings(**EVERYTHING, adam_wd=0.02, **given)
        decays = Optimizer(make_model(settings), settings, torch.float32).adamw.weight_decay
        assert decays == {"table": expected, "head": expected, "scalar": 0.02}


def test_the_down_projections_learn_by_their_factor_and_decay_as_the_others():
    settings = small_settings(down_lr_factor=2.0, matrix_lr=0.25, muon_wd=0.5)
    model = make_model(settings)
    optimizer = Optimizer(model, settings, torch.float32)
    assert optimizer.lr["down"] == 2 * optimizer.lr["muon"]
    for bank in (model.up_bank, model.down_bank):
        bank.data.fill_(1.0)
        bank.grad = torch.zeros_like(bank)
    optimizer.step(1.0, 0.9)
    assert model.up_bank.unique().tolist() == model.down_bank.unique().tolist() == [0.875]


@pytest.mark.parametrize(
    "change",
    [{"muon_coefficients": "polar_express"}, {"muon_row_norm": True}, {"down_lr_factor": 2.0}],
)
def test_settings_reach_the_update(change):
    found = []
    for settings in (small_settings(), small_settings(**change)):
        torch.manual_seed(0)
        model = make_model(settings)
        bank = model.down_bank
        optimizer = Optimizer(model, settings, torch.float32)
        before, bank.grad = bank.detach().clone(), torch.randn_like(bank)
        optimizer.step(1.0, 0.9)
        found.append(bank.detach() - before)
    assert (found[0] - found[1]).norm() > 0.05 * found[0].norm()
