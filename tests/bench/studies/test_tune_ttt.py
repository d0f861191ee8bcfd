"""Tuning of test-time training: how its settings are found."""

from bench.studies.tune_ttt import AXES, descend
from settings import Settings
from settings.load import load_settings


def test_each_axis_takes_its_best_value_and_no_trial_is_made_twice():
    asked = []

    def gain(choice):
        asked.append(dict(choice))
        return -((choice["a"] - 3) ** 2) - 0.1 * (choice["b"] - choice["a"]) ** 2

    axes = [("a", [1, 2, 3]), ("b", [0, 3]), ("a", [2, 3])]
    assert descend(gain, {"a": 0, "b": 0}, axes, lambda: True) == {"a": 3, "b": 3}
    assert len(asked) == len({tuple(sorted(choice.items())) for choice in asked})


def test_no_trial_begins_after_the_time():
    asked = []

    def gain(choice):
        asked.append(choice)
        return float(choice["a"])

    axes = [("a", [1, 2, 3, 4])]
    assert descend(gain, {"a": 0}, axes, lambda: len(asked) < 3) == {"a": 2}
    assert len(asked) == 3


def test_what_is_tried_is_possible():
    for axis, values in AXES:
        kind = type(getattr(load_settings([]), axis))
        for value in values:
            assert type(value) is kind
            made = load_settings(["--ttt-enabled", f"--{axis.replace('_', '-')}", str(value)])
            assert isinstance(made, Settings)
