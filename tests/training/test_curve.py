"""The validation curve: when its points come, what they cost, and that training is the same."""

import pytest

from runtime.progress import Progress
from training import curve
from training.curve import Curve
from training.loop import Loop


@pytest.fixture
def of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of these small runs may score a window alone."""
    monkeypatch.setattr(curve, "FEWEST", 1)


def points(settings, steps: int) -> list[tuple[int, int]]:
    """Steps and tokens of a run's points, by its number of steps."""
    due, batch = Curve(settings).tokens_due, settings.train_batch_tokens
    found = [(step, due(step / steps, step * batch)) for step in range(1, steps)]
    return [(step, tokens) for step, tokens in found if tokens]


@pytest.mark.usefixtures("of_any_length")
@pytest.mark.parametrize("steps", [200, 700, 5000])
def test_points_are_even_and_take_one_percent(make_trainer, steps):
    settings = make_trainer(val_points=10).settings
    found = points(settings, steps)
    assert [step for step, _ in found] == pytest.approx(
        [steps * point / 11 for point in range(1, 11)], abs=1
    )
    (tokens,) = {tokens for _, tokens in found}
    # A validation token is a forward pass: a third of a training token, and a half is allowed for.
    assert tokens >= settings.eval_seq_len and tokens % settings.eval_seq_len == 0
    assert 10 * tokens / 2 <= 0.01 * steps * settings.train_batch_tokens
    whole = settings.val_batch_size
    assert tokens < whole or tokens % whole == 0


def test_no_points_where_one_percent_pays_no_window_or_an_interval_is_given(make_trainer):
    assert points(make_trainer(val_points=10).settings, 20) == []
    assert points(make_trainer(val_points=0).settings, 700) == []
    assert points(make_trainer(val_loss_every=50).settings, 700) == []


@pytest.mark.parametrize("windows", [0, 1, 3, 40])
def test_a_short_run_has_fewer_points_of_no_fewer_tokens(make_trainer, monkeypatch, windows):
    settings = make_trainer(val_points=10).settings
    monkeypatch.setattr(curve, "FEWEST", 16 * settings.eval_seq_len)
    tokens = 50 * 16 * settings.eval_seq_len * (windows + 0.5)  # one percent is for two a token
    found = points(settings, int(tokens / settings.train_batch_tokens))
    assert len(found) == min(10, windows)
    assert all(each >= curve.FEWEST for _, each in found)


@pytest.mark.usefixtures("of_any_length")
def test_the_curve_leaves_no_trace_in_training(make_trainer):
    losses, scored = [], []
    for count in (0, 3):
        trainer = make_trainer(iterations=60, val_points=count)
        take, taken = trainer.step, []

        def noted(*given, take=take, taken=taken):
            numbers = take(*given)
            taken.append(numbers[0].item())
            return numbers

        def validate(step: int, elapsed: float, tokens: int) -> float:
            scored.append((step, tokens))
            return 1.0

        trainer.step = noted
        Loop(trainer, trainer.settings, None, Progress(None, None, False), validate).run()
        losses.append(taken)
    assert losses[0] == losses[1] and len(losses[0]) == 60
    assert [step for step, _ in scored] == [16, 31, 46]
    assert {tokens for _, tokens in scored} == {80}
