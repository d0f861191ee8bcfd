"""What the swarm decides changes the training: each agent's part, and what is undone."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.shards import write_shard
from runtime import checkpoint
from runtime.progress import Progress
from runtime.run_folder import RunFolder
from settings.variants import Variant
from swarm.agents import AGENTS
from swarm.steering import Steering
from tests.training.small import VOCAB, small_settings, trainers
from training.loop import Interruption, Loop
from training.pace import FIRST_STEP, Start
from training.schedule import Moment
from training.trainer import Trainer

SCORES = np.linspace(0, 1, VOCAB, dtype=np.float32)
Weights = dict[str, Tensor]


class Watched:
    """A run that is looked at after each step, from outside.

    Attributes:
        weights, clipped: after each step, by the number of steps done; ``clipped`` are gradients.
        losses: of each step.
        decided: the swarm's levers that each step had, by its number.
    """

    def __init__(
        self,
        trainer: Trainer,
        meddle: Callable[[int], None] = lambda step: None,
        folder: RunFolder | None = None,
        checkpointed: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
    ) -> None:
        settings = trainer.settings
        self.trainer, self.steering, self.meddle = trainer, Steering.of(settings), meddle
        self.weights: dict[int, Weights] = {}
        self.clipped: dict[int, Weights] = {}
        self.losses: list[float] = []
        self.decided: list[dict[str, float]] = []
        start = FIRST_STEP
        if checkpointed:
            tensors, state = checkpointed
            trainer.state.load(tensors, state)
            assert self.steering
            self.steering.load(state["swarm"])
            start = Start(state["step"], state["elapsed"])
        nowhere = Progress(None, None, enabled=False)
        self.loop = Loop(trainer, settings, folder, nowhere, self._look, self.steering, start)
        take = trainer.step

        def noted(step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
            numbers = take(step, moment, variant)
            self.losses.append(numbers[0].item())
            return numbers

        trainer.step = noted

    def _look(self, step: int, *_: float) -> float:
        model = dict(self.loop.trainer.model.named_parameters())
        self.weights[step] = {name: p.detach().clone() for name, p in model.items()}
        self.clipped[step] = {n: p.grad.clone() for n, p in model.items() if p.grad is not None}
        self.decided.append(dict(self.steering.levers) if self.steering else {})
        self.meddle(step)
        return 1.0

    def run(self) -> "Watched":
        self.loop.run()
        return self

    def first(self, lever: str) -> int:
        """The first step that had another value of a lever than the first step."""
        start = self.decided[0][lever]
        return next(i for i, decided in enumerate(self.decided) if decided[lever] != start)

    def moved(self, step: int, name: str) -> float:
        """Norm of a parameter's change in a step (from 0)."""
        return (self.weights[step + 1][name] - self.weights[step][name]).norm().item()


@pytest.fixture
def make(token_folder: Path):
    """``make(agents, **changes)``: a trainer of a run with these agents."""
    with trainers() as make_trainer:

        def make_one(agents: str = "", folder: Path = token_folder, **changes: object) -> Trainer:
            known = [kind.name for kind in AGENTS if "seed" in kind.sets]
            off = [name for name in known if name not in agents.split()]
            steered = {"agents_off": off, "kg_scores": "wordnet", "val_loss_every": 1}
            settings = small_settings(**(steered | {"iterations": 32, "swarm_every": 8} | changes))
            return make_trainer(settings, folder, SCORES)

        yield make_one


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def assert_parts_at(step: int, with_agent: Watched, without: Watched) -> None:
    """Both runs are one until this step, and two from it on."""
    assert step > 1
    assert same(with_agent.weights[step], without.weights[step])
    for later in range(step + 1, len(with_agent.losses) + 1):
        assert not same(with_agent.weights[later], without.weights[later])


def spike(trainer: Trainer, *steps: int) -> None:
    """Let gradients be a hundred times their size in these steps."""
    backward, calls = trainer.steps.accumulate, []

    def spiked(variant, batches):
        backward(variant, batches)
        if len(calls) in steps:
            for parameter in trainer.model.parameters():
                if parameter.grad is not None:
                    parameter.grad *= 100
        calls.append(variant)

    trainer.steps.accumulate = spiked


def norm(gradients: Weights) -> float:
    return torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()


def test_qat_timing_has_the_loss_computed_on_faked_weights(make):
    changes = {"late_qat_threshold": 0.15}
    steered, left = Watched(make("qat", **changes)).run(), Watched(make(**changes)).run()
    at = steered.first("qat")
    assert at == 24
    assert_parts_at(at, steered, left)
    twin = make(iterations=at, **changes)
    Watched(twin).run()
    ((tokens, targets, _),) = twin.loader.next_step()
    on = torch.tensor(1.0)
    faked = twin.model(tokens, targets, mtp_weight=torch.tensor(0.1), qat=on)[1].mean().item()
    assert steered.losses[at] == pytest.approx(faked, rel=1e-6)
    assert left.losses[at] != pytest.approx(faked, rel=1e-6)


def test_qat_timing_reads_the_warmdown_without_its_floor(make):
    """At step 16 the warm-down is at a half, which is below the threshold; the rate is not."""
    changes = {"late_qat_threshold": 0.6, "warmdown_share": 1.0, "min_lr": 0.7}
    assert Watched(make("qat", **changes)).run().first("qat") == 16


def test_kg_weight_leaves_tokens_of_a_high_score_less_of_the_training(make):
    changes = {"kg_loss_weight": 1.0, "iterations": 160, "kg_init": 0.0}
    steered, left = Watched(make("kg", **changes)).run(), Watched(make(**changes)).run()
    assert steered.decided[-1]["kg_weight"] == pytest.approx(0.2)
    assert_parts_at(steered.first("kg_weight"), steered, left)
    (high, low), (high_left, low_left) = nats_by_score(steered.trainer), nats_by_score(left.trainer)
    assert high > high_left
    assert low < low_left


def nats_by_score(trainer: Trainer) -> tuple[float, float]:
    """Mean nats of the next batches' targets with a high score, and with a low one."""
    batches = [trainer.loader.next_step()[0][:2] for _ in range(12)]
    tokens, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    nats, high = trainer.model.score(tokens, targets), targets >= VOCAB // 2
    return nats[high].mean().item(), nats[~high].mean().item()


def test_mtp_weight_halves_the_gradients_of_the_heads(make):
    changes = {"mtp_num_heads": 2, "grad_clip_norm": 0.0}
    steered, left = Watched(make("mtp", **changes)).run(), Watched(make(**changes)).run()
    at = steered.first("mtp_weight")
    assert at == 24
    assert_parts_at(at, steered, left)
    ours, theirs = (run.clipped[at + 1]["mtp_heads"] for run in (steered, left))
    torch.testing.assert_close(ours, theirs / 2)


def test_gradient_health_clips_tighter_and_skips_what_is_far_out(make):
    runs = []
    for agents in ("health", ""):
        trainer = make(agents, iterations=48)
        spike(trainer, 28, 40)
        runs.append(Watched(trainer).run())
    steered, left = runs
    at = steered.first("clip")
    assert at == 32
    assert_parts_at(at, steered, left)
    assert norm(left.clipped[at + 1]) == pytest.approx(0.3, rel=1e-3)
    assert norm(steered.clipped[at + 1]) == pytest.approx(0.15, rel=1e-3)
    assert steered.moved(at, "tok_emb") < left.moved(at, "tok_emb")
    assert left.moved(40, "qo_bank") > 0
    assert steered.moved(40, "qo_bank") == 0


# Where nothing but the rate is to be seen: with so small a one the loss stands still.
STILL = {"matrix_lr": 5e-7, "tied_embed_lr": 5e-7, "scalar_lr": 5e-7, "swarm_every": 1}


@pytest.fixture(scope="module")
def one_token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text without noise."""
    folder = tmp_path_factory.mktemp("one-token")
    write_shard(folder / "fineweb_train_000000.bin", np.ones(6000, np.uint16))
    return folder


def test_learning_rate_makes_smaller_updates_on_a_plateau(make, one_token):
    changes = STILL | {"folder": one_token, "iterations": 18}
    steered, left = Watched(make("lr", **changes)).run(), Watched(make(**changes)).run()
    at = steered.first("lr_factor")
    assert at == 13
    assert_parts_at(at, steered, left)
    for name in ("qo_bank", "tok_emb"):
        assert steered.moved(at, name) == pytest.approx(0.7 * left.moved(at, name), rel=0.02)


@pytest.mark.usefixtures("cpu_clock")
@pytest.mark.parametrize(
    ("agent", "lever"),
    [
        ("qat", "qat"),
        ("kg", "kg_weight"),
        ("health", "clip"),
        ("mtp", "mtp_weight"),
        ("lr", "lr_factor"),
    ],
)
def test_in_a_run_that_the_clock_ends_each_agent_decides(make, one_token, agent, lever):
    """By their number the steps would have done a hundred-thousandth of the run."""
    changes = STILL | {"folder": one_token, "wallclock": 0.8, "iterations": 10_000_000}
    trainer = make(agent, late_qat_threshold=0.15, **changes)
    spike(trainer, 10)
    run = Watched(trainer).run()
    assert len(run.losses) < 1000
    assert run.first(lever) > 1


def test_buffers_of_a_snapshot_are_allocated_before_the_first_step(make):
    steered, plain = make("health"), make("")
    for trainer in (steered, plain):
        Watched(trainer)
    assert steered.snapshots._buffers.keys() == steered.state.weights_and_moments().keys()
    assert not plain.snapshots._buffers


def test_a_run_that_diverges_returns_to_the_state_that_was_kept(make):
    runs = [diverging(make(agents, iterations=120)) for agents in ("health lr", "lr")]
    (steered, returns), (left, none) = runs
    assert returns == [True]
    assert none == []
    before = np.mean(steered.losses[48:56])
    assert np.mean(steered.losses[-8:]) < before
    assert np.mean(left.losses[-8:]) > before + 0.5


def diverging(trainer: Trainer) -> tuple[Watched, list[bool]]:
    """A run whose rates are absurd from step 56 on, until it returns; and of each return whether
    weights and moments were as they had been when they were kept."""
    kept: list[Weights] = []
    returns: list[bool] = []
    take, restore = trainer.snapshots.take, trainer.snapshots.restore

    def noted_take() -> None:
        take()
        kept.append(
            {name: tensor.clone() for name, tensor in trainer.state.weights_and_moments().items()}
        )

    def noted_restore() -> None:
        restore()
        trainer.levers.decide(lr_scale=1.0)
        returns.append(same(kept[-1], trainer.state.weights_and_moments()))

    def meddle(step: int) -> None:
        if step == 56:
            trainer.levers.decide(lr_scale=20.0)

    trainer.snapshots.take, trainer.snapshots.restore = noted_take, noted_restore
    return Watched(trainer, meddle).run(), returns


def test_a_run_that_strays_and_comes_back_is_left_alone(make):
    """This seed's loss is more than 15 % and six standard errors over its lowest at step 88."""
    changes = {"seed": 8, "iterations": 104, "kg_init": 0.0, "kg_loss_weight": 0.0}
    run = Watched(make("health mtp lr", **changes)).run()
    windows = np.array(run.losses).reshape(-1, 8).mean(axis=1)
    assert windows[10] > 1.15 * windows[:10].min()
    assert run.steering
    assert "rollback" not in run.steering.mesh.turns


def test_a_resumed_run_is_steered_on_bit_for_bit(make, tmp_path):
    agents, changes = "qat kg health mtp lr", {"iterations": 72, "late_qat_threshold": 0.15}
    trainer = make(agents, **changes)
    spike(trainer, 28)
    straight = Watched(trainer).run()

    def interrupt(step: int) -> None:
        if step == 45:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = make(agents, **changes)
    spike(trainer, 28)
    folder = RunFolder.create(tmp_path / "run", "x", {})
    with pytest.raises(Interruption):
        Watched(trainer, interrupt, folder).run()
    newest = checkpoint.latest(folder.checkpoints)
    assert newest
    assert straight.decided[44]["clip"] == 0.15
    resumed = Watched(make(agents, **changes), checkpointed=checkpoint.load(newest, "cpu")).run()
    assert resumed.losses == straight.losses[45:]
    assert resumed.decided == straight.decided[45:]
    assert same(straight.trainer.state.tensors(), resumed.trainer.state.tensors())
    assert straight.steering and resumed.steering
    assert resumed.steering.state() == straight.steering.state()
