"""Each variant has the time of its own steps; of one variant it is the plain mean."""

import json
from functools import partial

import pytest

from settings import Settings
from settings.variants import Variant, visited_tokens
from training.pace import Pace, Start

SLOW, FAST = Variant(4096, 256, loops=2), Variant(2048, 256)


def run(pace: Pace, steps: list[tuple[Variant, float]], ahead: int, elapsed: float = 0.0) -> float:
    """Let steps of given seconds finish ``ahead`` steps after they were launched."""
    for number, (variant, _) in enumerate(steps):
        landed = steps[max(0, number - ahead - 1) : max(0, number - ahead)]
        elapsed += sum(seconds for _, seconds in landed)
        pace.finished(min(number, ahead), elapsed)
        pace.launched(variant)
    elapsed += sum(seconds for _, seconds in steps[len(steps) - ahead - 1 :])
    pace.finished(0, elapsed)
    return elapsed


@pytest.mark.parametrize("ahead", [0, 1])
def test_one_variant_has_the_mean_of_all_steps_bit_for_bit(ahead):
    pace, elapsed = Pace(), 0.0
    assert pace.of(SLOW) == 0.0
    for step in range(1, 200):
        pace.launched(SLOW)
        elapsed += 0.1 + 0.01 * (step % 7)
        pending = min(step, ahead)
        pace.finished(pending, elapsed)
        done = step - pending
        assert pace.of(SLOW) == (elapsed / done if done else 0.0)
        assert pace.ahead() == pending * pace.of(SLOW)


@pytest.mark.parametrize("ahead", [0, 1])
def test_each_variant_has_its_own_seconds(ahead):
    pace = Pace()
    run(pace, 5 * [*4 * [(SLOW, 0.5)], *4 * [(FAST, 0.1)]], ahead)
    assert pace.of(SLOW) == pytest.approx(0.5)
    assert pace.of(FAST) == pytest.approx(0.1)


def test_unfinished_steps_count_by_their_own_variant():
    pace = Pace()
    elapsed = run(pace, [(SLOW, 0.5), (FAST, 0.1)], 0)
    pace.launched(SLOW)
    pace.launched(FAST)
    pace.finished(2, elapsed)
    assert pace.ahead() == pytest.approx(0.6)


def test_a_variant_that_has_not_run_is_judged_by_its_tokens():
    pace = Pace()
    run(pace, 3 * [(SLOW, 0.5)], 0)
    assert pace.of(FAST) == pytest.approx(0.25)


def test_in_a_run_it_is_judged_by_its_visits_too():
    settings = Settings(loop_layers=[3, 4, 5], num_loops=2)
    pace = Pace(work=partial(visited_tokens, settings=settings))
    run(pace, 3 * [(FAST, 0.11)], 0)
    assert pace.of(SLOW) == pytest.approx(2 * 0.17)


def test_the_warm_up_judges_it_better():
    pace = Pace(Start(warmed={SLOW: 0.4, FAST: 0.3}))
    run(pace, 3 * [(SLOW, 0.5)], 0)
    assert pace.of(FAST) == pytest.approx(0.5 * 0.3 / 0.4)
    other = Variant(8192, 256)
    assert pace.of(other) == pytest.approx(1.0)  # by its tokens


def test_a_resumed_run_goes_on_with_the_pace_of_its_checkpoint():
    whole, first = Pace(), Pace()
    steps = [*3 * [(SLOW, 0.5)], *3 * [(FAST, 0.1)]]
    run(whole, 2 * steps, 0)
    elapsed = run(first, steps, 0)
    second = Pace(Start(6, elapsed, json.loads(json.dumps(first.state()))))
    assert second.of(FAST) == first.of(FAST)
    run(second, steps, 0, elapsed)
    for variant in (SLOW, FAST):
        assert second.of(variant) == pytest.approx(whole.of(variant))


def test_steps_of_a_checkpoint_without_a_pace_are_those_of_the_first_variant():
    pace = Pace(Start(10, 5.0))
    assert pace.of(SLOW) == pace.of(FAST) == 0.5
    pace.launched(SLOW)
    pace.finished(0, 6.0)
    assert pace.of(SLOW) == 6.0 / 11
