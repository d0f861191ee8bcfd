"""Trials of settings: what is run, and what is refused."""

from collections.abc import Callable

import pytest

from bench.__main__ import main as bench
from bench.harness import pairs
from bench.harness.runs import Summary
from bench.studies import ladder
from settings.load import load_settings

COMMAND = ["trials", "--preset", "tiny", "--data"]


def test_trials_are_compared_with_the_preset_as_it_is(tmp_path, random_folder, monkeypatch, capsys):
    scores = {"as it is": (1.2, 1.3), "more decay": (1.19, 1.288)}
    commands = []

    def made(planned, found: dict[str, list[Summary]], keep: Callable[[], None]) -> None:
        for name, _, command in planned:
            commands.append(command)
            bits = scores[name][len(found.setdefault(name, []))]
            of = {"steps": 10, "step_ms": 1.0, "scores": {ladder.SCORE: {"bpb": bits}}}
            found[name].append(of)
            keep()

    monkeypatch.setattr(pairs, "make", made)
    out = tmp_path / "trials.md"
    given = ["--seeds", "2", "--trial", "more decay: --muon-wd 0.3", "--out", str(out)]
    assert bench([*COMMAND, str(random_folder), *given, "--", "--iterations", "5"]) == 0
    assert [load_settings(command).muon_wd for command in commands] == [0.095, 0.3] * 2
    assert {load_settings(command).iterations for command in commands} == {5}
    assert "-0.0110 ± 0.0014" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert "--trial 'more decay: --muon-wd 0.3' -- --iterations 5" in text and "commit:" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["muon-wd 0.3"], "name: --option value"),
        (["name:"], "name: --option value"),
        (["as it is: --muon-wd 0.3"], "named twice"),
        (["a: --muon-wd '3"], "No closing quotation"),
        (["a: --muon-wd much"], "muon_wd"),
        (["a b: --muon-wd 0.3", "a-b: --muon-wd 0.4"], "'a b' and 'a-b' have the same run folder"),
        (["as-it-is: --muon-wd 0.3"], "'as it is' and 'as-it-is' have the same run folder"),
        (["../a: --muon-wd 0.3"], "'../a' leaves the runs' folder"),
        (["/a: --muon-wd 0.3"], "'/a' leaves the runs' folder"),
    ],
)
def test_a_trial_that_is_none_is_refused(given, said, capsys):
    trials = [part for each in given for part in ("--trial", each)]
    assert bench([*COMMAND, "nowhere", *trials]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
