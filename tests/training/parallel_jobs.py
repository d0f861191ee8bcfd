"""What each rank does in the tests of parallel training; results are NumPy's, which pickle well."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.shards import TokenStream
from errors import InputError
from model.gpt import GPT
from model.parameters import exported
from runtime import checkpoint
from runtime.device import choose
from runtime.ranks import World
from tests.kernels.tools.levers import make_levers
from tests.kernels.tools.twins import DEVICE
from tests.training.small import small_settings
from tests.training.test_fused_optimizer import make_model
from training.averaging import ExponentialAverage
from training.fused_optimizer import FusedOptimizer
from training.measures import MEASURES
from training.parallel import Shards
from training.schedule import Moment
from training.trainer import Trainer
from training.warm_up import warm_up

STEADY = Moment(progress=0.0, lr_scale=1.0, momentum=0.95, qat=False)
STEPS = 8
BANKS = ("qo_bank", "kv_bank", "up_bank", "down_bank")
LATEST = {"averaging": "lawa", "lawa_k": 2, "lawa_freq": 3}
RULES = {"muon_beta2": 0.9, "cautious_decay": True}  # with second moments of a shape of their own
FUSED = {"ema_decay": 0.9, "quant_min_step": 0.01}

Arrays = dict[str, np.ndarray]


def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def make_trainer(
    world: World, tokens: Path, reads: Sequence[str] = (), **changes: object
) -> Trainer:
    settings = small_settings(**{"averaging": "ema", "ema_decay": 0.9} | changes)
    stream = TokenStream.open(tokens, "train", settings.vocab_size)
    return Trainer(settings, stream, world, choose(settings, world.device), reads=reads)


def steps(trainer: Trainer, first: int, last: int) -> list[list[float]]:
    """Loss, gradient norm and skipped steps of each."""
    return [trainer.step(step, STEADY).tolist() for step in range(first, last)]


def train(
    world: World, tokens: Path, changes: dict[str, Any], count: int = STEPS
) -> dict[str, Any]:
    """So many steps, and what then is there: whole, this rank's own, averaged, in the model."""
    trainer = make_trainer(world, tokens, **changes)
    numbers = steps(trainer, 0, count)
    own = trainer.update.tensors() | trainer.averaging.tensors()
    result = {
        "numbers": numbers,
        "own": {name: tensor.numel() for name, tensor in own.items()},
        "whole": arrays(trainer.state.tensors()),
        "averaged": arrays(trainer.averaging.weights()),
        "model": arrays(dict(trainer.model.named_parameters())),
    }
    trainer.close()
    return result


def alternate(
    world: World, tokens: Path, changes: dict[str, Any], order: Sequence[int], replayed: bool
) -> dict[str, Any]:
    """Steps of several variants, by index: their numbers, and the weights then."""
    trainer = make_trainer(world, tokens, **changes)
    try:
        if replayed:
            warm_up(trainer, 0)
        captured = [gradients.captured for gradients in trainer.steps.gradients.values()]
        assert captured == [replayed] * len(trainer.variants)
        numbers = [
            trainer.step(step, STEADY, trainer.variants[index]).tolist()
            for step, index in enumerate(order)
        ]
        return {"numbers": numbers, "model": arrays(dict(trainer.model.named_parameters()))}
    finally:
        trainer.close()


def measure(world: World, tokens: Path, changes: dict[str, Any]) -> list[float]:
    """All measured signals of the second step, which has a momentum."""
    trainer = make_trainer(world, tokens, [*MEASURES], **changes)
    _, numbers = steps(trainer, 0, 2)
    trainer.close()
    return numbers[-sum(trainer.update.measures.sizes.values()) :]


def save(world: World, tokens: Path, folder: Path, changes: dict[str, Any]) -> Arrays:
    """A checkpoint after some steps; returns all state after as many again."""
    trainer = make_trainer(world, tokens, **changes)
    steps(trainer, 0, STEPS)
    whole = trainer.state.tensors()
    if world.is_main:
        checkpoint.save(folder, STEPS, whole, trainer.state.numbers())
    world.barrier()
    steps(trainer, STEPS, 2 * STEPS)
    trainer.close()
    return arrays(trainer.state.tensors())


def resume(world: World, tokens: Path, folder: Path, changes: dict[str, Any]) -> list[Arrays]:
    """All state of that checkpoint as taken up, and after as many steps again."""
    path = checkpoint.latest(folder)
    assert path is not None
    trainer = make_trainer(world, tokens, **changes)
    trainer.state.load(*checkpoint.load(path, "cpu"))
    taken_up = arrays(trainer.state.tensors())
    steps(trainer, STEPS, 2 * STEPS)
    trainer.close()
    return [taken_up, arrays(trainer.state.tensors())]


def refuse(world: World, tokens: Path, folder: Path, changes: dict[str, Any]) -> str:
    """What is said to a checkpoint of which one bank has as many matrices as a rank learns."""
    path = checkpoint.latest(folder)
    assert path is not None
    tensors, state = checkpoint.load(path, "cpu")
    trainer = make_trainer(world, tokens, **changes)
    name = "muon.momentum.qo_bank"
    tensors[name] = tensors[name][: len(trainer.shards.own["qo_bank"])]
    try:
        trainer.state.load(tensors, state)
    except InputError as error:
        return str(error)
    finally:
        trainer.close()
    return ""


def poison(world: World, tokens: Path, changes: dict[str, Any]) -> tuple[list[float], bool]:
    """A step in which one rank's gradient of a bank is not finite: its numbers, and if all stayed.

    The last rank's is, in the first matrix, which another one learns.
    """
    trainer = make_trainer(world, tokens, **changes)
    steps(trainer, 0, 2)
    before = arrays(trainer.state.tensors())

    def poisoned(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[0, 1, 2] = float("inf")
        return gradient

    if world.rank == world.size - 1:
        trainer.model.qo_bank.register_hook(poisoned)
    numbers = trainer.step(2, STEADY).tolist()
    trainer.close()
    return numbers, same(before, arrays(trainer.state.tensors()))


def snapshot_and_restore(world: World, tokens: Path, changes: dict[str, Any]) -> bool:
    """Whether ``restore`` brings weights and moments back, the model's copies of other ranks'
    included, and averages restart from them."""
    trainer = make_trainer(world, tokens, **changes)
    steps(trainer, 0, 2)
    trainer.snapshots.take()
    before = arrays(trainer.state.tensors()), arrays(dict(trainer.model.named_parameters()))
    steps(trainer, 2, 4)
    trainer.snapshots.restore()
    trainer.close()
    after = arrays(trainer.state.tensors()), arrays(dict(trainer.model.named_parameters()))
    expected = {name: before[0][name.replace("average.", "model.")] for name in before[0]}
    return all(map(same, (expected, before[1]), after))


def shrink(world: World, tokens: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """A step with up projections 30 times as large, and one after they have shrunk."""
    trainer = make_trainer(world, tokens, ["update_ratios"], **changes)
    trainer.shards.own["up_bank"].detach().mul_(30)
    trainer.shards.gather()
    numbers = steps(trainer, 0, 1)
    trainer.shrink_weights()
    numbers += steps(trainer, 1, 2)
    trainer.close()
    return {"numbers": numbers, "model": arrays(dict(trainer.model.named_parameters()))}


def reduced_early(
    world: World, tokens: Path, changes: dict[str, Any]
) -> dict[str, list[list[str]]]:
    """Which banks are reduced when the backward pass gets to some places, in each micro-batch."""
    trainer = make_trainer(world, tokens, **changes)
    found: dict[str, list[list[str]]] = {"first attention": [], "embedding": []}

    def look(place: str) -> None:
        banks = trainer.shards.banks.items()
        found[place].append([name for name, bank in banks if bank.own.grad is not None])

    ops = trainer.model.ops
    visits = cycle(range(len(trainer.model.plan)))

    def self_attention(*given: Any, **named: Any) -> Tensor:
        result = ops.self_attention(*given, **named)
        if next(visits) == 0:
            result.register_hook(lambda _: look("first attention"))
        return result

    trainer.model.ops = replace(ops, self_attention=self_attention)
    trainer.model.smear_gate.register_post_accumulate_grad_hook(lambda _: look("embedding"))
    for bank in trainer.shards.banks.values():
        bank.own.grad = None
    steps(trainer, 0, 1)
    trainer.close()
    return found


def check_reduced(found: dict[str, list[list[str]]]) -> None:
    """Of what ``reduced_early`` found: in the last of several micro-batches, and early there."""
    for place, banks in (("first attention", BANKS[2:]), ("embedding", BANKS)):
        *earlier, last = found[place]
        assert last == list(banks), place
        assert earlier, "one micro-batch"
        assert not any(earlier), place


class Collectives(TorchDispatchMode):
    """Counts calls of collective operations; torch's profiler takes a second to start."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.name().partition(".")[0]
        if name.startswith("c10d::"):
            self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def collectives(world: World, tokens: Path, changes: dict[str, Any]) -> dict[str, int]:
    """How often a step calls each collective operation."""
    trainer = make_trainer(world, tokens, **changes)
    steps(trainer, 0, 1)
    with Collectives() as seen:
        steps(trainer, 1, 2)
    trainer.close()
    return seen.calls


def fused(world: World, changes: dict[str, Any], skip_norm: float) -> dict[str, Any]:
    """Two steps of the fused optimizer on gradients whose sum is the same on any ranks.

    Without a GPU its kernels are interpreted.
    """
    settings = small_settings(ema_decay=0.9, quant_min_step=0.01, **changes)
    model = make_model(settings)
    shards = Shards(model, world)
    own = {name: shards.own[name] for name in exported(model)}
    averaging = ExponentialAverage(own, settings.ema_decay, shards.join)
    levers = make_levers(clip=0.3, skip_norm=skip_norm)._asdict()
    averages = averaging.exponential
    optimizer = FusedOptimizer(model, settings, torch.float32, averages, levers, shards)
    numbers = []
    for step in range(2):
        share_gradients(model, step, world)
        with shards.reducing():
            pass
        shards.reduce_small(torch.zeros(()))
        optimizer.step()
        shards.gather()
        numbers.append(np.append(optimizer.statistics.numpy(), optimizer.norm))
    whole = shards.join(optimizer.tensors() | averaging.tensors(), optimizer.states())
    return {"numbers": numbers, "whole": arrays(whole | dict(model.named_parameters()))}


def share_gradients(model: GPT, step: int, world: World) -> None:
    """Of a step, each rank's part: whole numbers of 1/256, so that their sum is exact."""
    for i, parameter in enumerate(model.parameters()):
        draw = torch.Generator().manual_seed(1000 * step + i)
        whole = torch.randint(-1000, 1000, parameter.shape, generator=draw)
        rest = torch.zeros_like(whole)
        for rank in range(world.size - 1):
            part = torch.randint(-1000, 1000, parameter.shape, generator=draw)
            rest += part
            if rank == world.rank:
                parameter.grad = part / 256
        if world.rank == world.size - 1:
            parameter.grad = (whole - rest) / 256


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def story(
    world: World, tokens: Path, folder: Path, changes: dict[str, Any], saves: bool
) -> dict[str, Any]:
    """All of it, since a process takes longer to start than to do its part."""
    told: dict[str, Any] = {"saved": save(world, tokens, folder, RULES)} if saves else {}
    if DEVICE == "cpu":  # where kernels are interpreted; a GPU's ranks have their own test
        told["fused"] = fused(world, changes, np.inf)
        told["fused, skipped"] = fused(world, changes, 0.0)
    return told | {
        "resumed": resume(world, tokens, folder, RULES),
        "refused": refuse(world, tokens, folder, {}),
        "trained": train(world, tokens, changes),
        "again": train(world, tokens, changes),
        "measured": measure(world, tokens, changes),
        "latest": train(world, tokens, changes | LATEST),
        "poisoned": poison(world, tokens, changes),
        "returned": snapshot_and_restore(world, tokens, changes),
        "shrunken": shrink(world, tokens, changes),
        "reduced early": reduced_early(world, tokens, {"micro_batch_tokens": 32}),
        "collectives": collectives(world, tokens, changes),
    }
