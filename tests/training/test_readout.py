"""The exported blend is the one with the least loss on held-out windows, if that is sure."""

import math

import pytest
import torch
from torch import Tensor

from data.shards import TokenStream
from model.parameters import exported
from runtime.progress import Progress
from tests.training.small import small_settings
from training.averaging import AGES, MIDDLE_AGE, MOST_SHARE, MOVED_EVERY, SeveralAverages
from training.choosing import EVALUATIONS, Chooser, Course
from training.loop import Loop
from training.readout import Blend, Readout, Weights, distinct, surely_better
from training.schedule import Moment
from training.snapshots import holding

CALM = {"recent": [3.0] * 10, "lowest": 3.0, "first": 9.0}
LIVE = {"w": torch.tensor([1.0]), "table": torch.tensor([1.0])}


def readout(wanted: float, table: float, **averages: float) -> tuple[Readout, list[Weights]]:
    """A readout of two weights whose loss is least at these values, and all that it scored."""
    seen: list[Weights] = []

    def score(weights: Weights) -> list[float]:
        seen.append(weights)
        off = (weights["w"].item() - wanted) ** 2 + (weights["table"].item() - table) ** 2
        return [3 + off + 0.1 * window for window in range(4)]

    means = {
        name: {"w": torch.tensor([v]), "table": torch.tensor([v])} for name, v in averages.items()
    }
    return Readout(score, LIVE, means, ["table"]), seen


@pytest.mark.parametrize(("wanted", "share"), [(0.3, 0.7), (0.75, 0.25), (-0.5, 1.2), (1.4, 0.0)])
def test_the_best_share_is_where_the_parabola_is_least(wanted, share):
    search, seen = readout(wanted, wanted, average=0.0)
    raw = [3 + 2 * (1 - wanted) ** 2 + 0.1 * window for window in range(4)]
    best = search.search(raw)
    assert best.share == pytest.approx(share, abs=1e-6)
    assert best.embedding == pytest.approx(share, abs=1e-6)
    assert len(seen) <= EVALUATIONS - 2  # both ends are scored before


def test_the_best_of_several_averages_is_found_and_its_embeddings_apart():
    search, seen = readout(0.4, 1.0, short=0.9, average=0.5, long=1.5)
    best = search.search([3.36 + 0.1 * window for window in range(4)])
    assert (best.average, best.embedding) == ("average", 0.0)
    assert best.share == pytest.approx(0.6, abs=0.5)
    assert best.name == f"{best.share:.2f} average, 0.00 in embeddings"
    weights = search.weights(best)
    assert weights["table"].item() == 1.0
    assert weights["w"].item() == pytest.approx(1 - 0.5 * best.share)
    assert len(seen) == EVALUATIONS - 2
    assert LIVE["w"].item() == 1.0


def test_a_loss_that_is_none_is_never_the_best():
    def score(weights: Weights) -> list[float]:
        return [math.nan] * 3

    search = Readout(score, LIVE, {"average": LIVE}, [])
    assert search.search([2.0] * 3) == Blend("average", 0.0, 0.0)
    assert surely_better([2.0] * 3, [math.nan] * 3)
    assert not surely_better([math.nan] * 3, [2.0] * 3)


def test_better_is_by_two_standard_errors_of_the_differences():
    many = [1.0, 5.0, 3.0, 7.0]
    assert surely_better([value - 0.1 for value in many], many)
    assert not surely_better(many, many)
    assert not surely_better([0.4, 5.2, 2.9, 7.0], many)


def several(weight: Tensor) -> SeveralAverages:
    return SeveralAverages({"w": weight})


@pytest.mark.parametrize(("run", "every"), [(640, MOVED_EVERY), (200, 1)])
def test_other_averages_forget_by_their_age_and_not_faster_than_the_run_grows(run, every):
    weight = torch.zeros(1, dtype=torch.float64)
    averages = several(weight)
    expected = dict.fromkeys(AGES, 0.0)
    for step in range(1, run + 1):
        weight.fill_(math.sin(step / 40))
        averages.move_others(step, step / run)
        if step % every == 0:
            for age, share in AGES.items():
                most = 1 - every / max(every, MOST_SHARE * step)
                steps = share * run
                aged = math.exp(-every / steps) if every > 1 else steps / (1 + steps)
                decay = min(aged, most)
                expected[age] = decay * expected[age] + (1 - decay) * weight.item()
    found = averages.every()
    assert found.keys() == {"average", *AGES}
    for age in AGES:
        assert found[age]["w"].item() == pytest.approx(expected[age])
    assert not averages.young(run)


@pytest.mark.parametrize("run", [60, 120, 300, 520])
def test_averages_of_short_runs_have_the_ages_of_their_names(run):
    """Weights that grow by 1 a step lag by an average's mean age; ages were 8 steps or none."""
    weight = torch.zeros(1, dtype=torch.float64)
    averages = several(weight)
    for step in range(1, run + 1):
        weight.fill_(step)
        averages.move_others(step, (step - 1) / run)
    for age, share in AGES.items():
        lag = run - averages.every()[age]["w"].item()
        assert lag == pytest.approx(share * run, rel=0.02), age


@pytest.mark.parametrize(("step", "run"), [(3, 4), (3, 10_000), (11, 10_000)])
def test_no_average_is_the_weights_of_the_start(step, run):
    weight = torch.full((1,), 100.0)
    averages = several(weight)
    for done in range(1, step + 1):
        weight.fill_(done)
        averages.move_others(done, done / run)
    own = averages.every()
    assert all(own[age]["w"].item() <= step for age in AGES)


def test_equal_averages_are_blended_once(make_trainer):
    """A run of four steps scored and exported blends with the weights of its start."""
    one, two = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    equal = {"average": one, "short": two, "long": {"w": torch.zeros(2)}}
    assert distinct(equal, one) == {"short": two}
    trainer = trained(make_trainer, 1337, iterations=4)
    choice = Chooser(trainer).choose(4, trainer.averaging.weights(), Course(CALM), None)
    assert choice.losses.keys() == {"averaged", "raw"}


def test_averages_go_on_from_a_checkpoint_also_from_one_without_a_readout():
    weight = torch.ones(2)
    one, other, plain = (several(weight.clone()) for _ in range(3))
    for step in (8, 16):
        one._live[0].fill_(step)
        one.move()
        one.move_others(step, step / 400)
    tensors = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other.load(tensors)
    for age, average in one.every().items():
        assert torch.equal(other.every()[age]["w"], average["w"])
    plain.load({"average.w": torch.tensor([5.0, 6.0])})
    assert all(torch.equal(own["w"], torch.tensor([5.0, 6.0])) for own in plain.every().values())
    plain.restart()
    assert all(torch.equal(own["w"], weight) for own in plain.every().values())


def test_the_middle_average_has_its_age_of_the_run(make_trainer):
    trainer = make_trainer(readout=True, iterations=1000)
    moment = Moment(progress=0.8, lr_scale=1.0, momentum=0.9, qat=False)
    trainer.step(800, moment)
    decay = trainer.levers.value("averaging_decay")
    assert -1 / math.log(decay) == pytest.approx(MIDDLE_AGE * 1000)


def trained(make_trainer, seed: int, **changes: object):
    settings = {"readout": True, "seed": seed, "iterations": 60}
    trainer = make_trainer(**settings | changes)
    nowhere = Progress(None, None, enabled=False)
    Loop(trainer, trainer.settings, None, nowhere, lambda *_: 1.0).run()
    return trainer


@pytest.mark.parametrize("seed", [1337, 1338, 1339])
def test_the_choice_is_no_worse_than_raw_or_averaged_on_tokens_nobody_chose_on(
    make_trainer, token_folder, seed
):
    trainer = trained(make_trainer, seed)
    averaged = trainer.averaging.weights()
    choice = Chooser(trainer).choose(60, averaged, Course(CALM), None)
    tokens = TokenStream.open(token_folder, "val", 64).read(0, 593).astype("int32")
    tokens = torch.from_numpy(tokens)

    def validation(weights: Weights) -> float:
        with torch.no_grad(), holding(trainer.model, weights, trainer.world):
            windows = tokens[:-1].view(37, 16), tokens[1:].view(37, 16)
            return trainer.model.score(*windows).mean().item()

    losses = {"raw": validation({}), "averaged": validation(averaged)}
    found = validation(choice.weights)
    print(seed, choice.name, found, losses)
    assert found <= min(losses.values()) + 1e-6
    assert len(choice.losses) >= 8


def test_a_blend_replaces_todays_choice_only_if_it_is_surely_better(make_trainer, monkeypatch):
    trainer = trained(make_trainer, 1337, iterations=24)
    averaged = trainer.averaging.weights()
    live = {name: w.detach().clone() for name, w in exported(trainer.model).items()}
    chooser = Chooser(trainer)
    for errors, sure in ((2.0, None), (1e9, False), (-1e9, True)):
        monkeypatch.setattr("training.readout.ERRORS", errors)
        choice = chooser.choose(24, averaged, Course(CALM), None)
        plain = min(("averaged", "raw"), key=choice.losses.__getitem__)
        least = min(choice.losses, key=choice.losses.__getitem__)
        if sure is not None:
            assert choice.name == (least if sure else plain)
        assert choice.losses[choice.name] <= choice.losses[plain]
    assert all(torch.equal(live[name], w) for name, w in exported(trainer.model).items())


def test_without_a_readout_there_is_one_average_and_nothing_is_held_out(make_trainer):
    trainer = make_trainer()
    assert trainer.held_out is None
    assert trainer.averaging.every().keys() == {"average"}
    assert not small_settings().readout
    assert set(trainer.averaging.tensors()) == {f"average.{n}" for n in exported(trainer.model)}
