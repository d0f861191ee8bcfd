"""One row more in the table of parameters: it is made, updated, shared, stored and restored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from artifact.export import export
from artifact.quantisation.recipe import Recipe, Role
from artifact.restore import restore
from evaluation.ttt.sgd import frozen_rows
from kernels.optimizer.state import State
from model import parameters as table
from model.config import Architecture
from model.gpt import GPT
from model.parameters import Constant, Orthogonal, ParameterSpec, Stack, bank, exported, small
from tests.small import small_model
from tests.training.small import small_settings
from training.optimizer import Optimizer
from training.parallel import Shards

MATRICES = 3


def rows(config: Architecture) -> Iterator[ParameterSpec]:
    yield bank("new_bank", "mlp", Orthogonal(), (6, 4), Stack("new", range(MATRICES)))
    yield small("new_vector", Constant((0.5,)), 5)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> GPT:
    monkeypatch.setattr(table, "ROWS", (*table.ROWS, rows))
    return small_model(0.02)


class SecondOfTwo:
    """A world in which this rank is the second, and what the first one sends is zero."""

    size, rank, device = 2, 1, torch.device("cpu")

    def reduce_scatter(self, own: Tensor, whole: Tensor) -> None:
        own.copy_(whole[len(own) :])

    def all_gather(self, whole: Tensor, own: Tensor) -> None:
        whole[: len(own)] = 0.0


def test_it_is_made_and_the_others_stay(model: GPT, monkeypatch: pytest.MonkeyPatch):
    made = small_model(0.0)
    assert made.new_vector.tolist() == [0.5] * 5
    torch.testing.assert_close(made.new_bank.mT @ made.new_bank, torch.eye(4).expand(3, 4, 4))
    monkeypatch.undo()
    for name, parameter in small_model(0.0).named_parameters():
        assert torch.equal(parameter, made.get_parameter(name)), name


def test_it_is_updated(model: GPT):
    optimizer = Optimizer(model, small_settings(), torch.float32)
    before = model.new_bank.detach().clone(), model.new_vector.detach().clone()
    for parameter in (model.new_bank, model.new_vector):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0, 0.9)
    assert not torch.equal(model.new_bank, before[0])
    assert not torch.equal(model.new_vector, before[1])
    kept = {"muon.momentum.new_bank", "adamw.first.new_vector", "adamw.second.new_vector"}
    assert kept <= optimizer.tensors().keys()
    assert optimizer.states()["muon.momentum.new_bank"].shape == (MATRICES, 6, 4)


def test_its_matrices_are_shared_with_all_states_that_they_have(model: GPT):
    whole = model.new_bank.detach().clone()
    shards = Shards(model, cast(Any, SecondOfTwo()))
    assert torch.equal(shards.own["new_bank"], whole[2:])
    assert shards.own["new_vector"] is model.new_vector
    settings = small_settings(muon_beta2=0.9)
    optimizer = Optimizer(model, settings, torch.float32, shards.own)
    name = "muon.second_moment.new_bank"
    own, states = optimizer.tensors()[name], optimizer.states()
    assert own.shape == (1, 6, 1)
    assert states[name].shape == (MATRICES, 6, 1)
    own.fill_(7.0)
    joined = shards.join({name: own}, states)[name]
    assert joined[:, :, 0].tolist() == [[0.0] * 6, [0.0] * 6, [7.0] * 6]
    assert torch.equal(shards.cut({name: joined}, states)[name], own)
    assert name not in shards.cut({name: joined[:2]}, states)


def test_a_state_without_axis_is_whole_on_every_rank(model: GPT):
    shards = Shards(model, cast(Any, SecondOfTwo()))
    name, tensor = "some.count.new_bank", torch.arange(4.0)
    states = {name: State("some.count", (4,))}
    assert shards.join({name: tensor}, states)[name] is tensor
    assert shards.cut({name: tensor}, states)[name] is tensor


def test_it_is_stored_and_restored(model: GPT, tmp_path: Path):
    path, config = tmp_path / "a.bin", model.config
    recipe = Recipe(Role(8), Role(8))
    export(path, config.header(), exported(model), table.roles(config), recipe)
    restored = restore(path, 16, torch.device("cpu"))
    torch.testing.assert_close(restored.new_bank, model.new_bank, rtol=0, atol=0.01)
    torch.testing.assert_close(restored.new_vector, model.new_vector, rtol=0, atol=1e-3)


def test_its_layers_can_be_frozen(model: GPT):
    frozen = frozen_rows(model.config, 2)
    assert frozen["new_bank"] == [slice(0, 2)]
    assert frozen["new_vector"] == []
