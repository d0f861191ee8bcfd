"""The rescue bench: which runs it makes, what it keeps sealed, and what its table says."""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main as bench
from bench.rescue import rescue
from bench.rescue.runs import OUTCOME, Outcome, Run, alarms_of, outcome
from bench.rescue.table import CLEAN, Found, report, text_of
from bench.rescue.troubles import TROUBLES
from errors import InputError
from files import PROJECT
from settings import Settings
from settings.load import load_settings
from swarm.decision_log import read

OPEN = [name for name, trouble in TROUBLES.items() if not trouble.sealed]


@cache
def settings_of(*command: str) -> Settings:
    """Return a command line's settings, which take a tenth of a second, read once."""
    return load_settings(command)


@pytest.fixture(autouse=True)
def no_settings_are_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "load_settings", lambda command: settings_of(*command))


def test_three_troubles_are_for_development():
    assert OPEN == ["garbage, spread", "broken weights", "half speed"]


def planned(trouble: str = CLEAN, seeds: int = 1, arms: tuple[str, ...] = tuple(rescue.ARMS)):
    base = rescue.base_of("tiny", Path("nowhere"), 40.0, ())
    return rescue.plan(base, rescue.Asked(seeds=seeds, arms=arms), [trouble], Path("runs"))


def test_an_oracle_has_runs_of_its_own_only_if_it_is_told_of_something():
    assert [run.arm for run in planned()] == ["F0", "F1", "F2", "S"]
    assert [run.arm for run in planned("broken weights", arms=("O", "F1"))] == ["F0", "F1"]
    assert [run.arm for run in planned("half speed", arms=("F0", "O"))] == ["F0", "O"]
    [_, early] = planned("early end", arms=("O",))
    assert settings_of(*early.command).wallclock == pytest.approx(28.0)


def test_schedules_are_fractions_and_arms_are_what_they_say():
    runs = planned("broken weights", seeds=2, arms=("S", "Y"))
    assert len({run.folder for run in runs}) == len(runs) == 6
    for run in runs:
        settings = settings_of(*run.command)
        assert settings.wallclock == 40 and settings.warmdown_share == 0.8
        assert settings.swarm == (run.arm in ("S", "Y"))
        assert settings.seed == run.seed
        log = Path("runs", f"clean-S-{run.seed}", "decisions.jsonl")
        assert settings.swarm_yoke == (log if run.arm == "Y" else None)


def test_what_is_sealed_is_refused_and_each_scoring_is_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rescue, "SEALED", tmp_path / "sealed.json")
    monkeypatch.setattr(rescue, "base_of", lambda *asked: [])
    monkeypatch.setattr(rescue, "plan", lambda *asked: [])
    monkeypatch.setattr(rescue, "make", lambda *asked: None)
    command = ["rescue", "--data", "nowhere", "--commit", "abc", "--seeds", "1", "--arms", "S"]
    command += ["--troubles", "spikes"]
    assert bench(command) == 2
    assert "spikes: sealed" in capsys.readouterr().err
    assert not rescue.SEALED.exists()
    for _ in range(2):
        assert bench([*command, "--sealed"]) == 0
    noted = json.loads(rescue.SEALED.read_text(encoding="utf-8"))
    assert [each["troubles"] for each in noted] == [["spikes"], ["spikes"]]
    assert noted[0]["commit"] == "abc" and noted[0]["seeds"] == 1
    assert bench([*command[:-1], "half speed"]) == 0
    assert len(json.loads(rescue.SEALED.read_text(encoding="utf-8"))) == 2


def test_a_series_that_goes_on_is_noted_once(tmp_path, monkeypatch, random_folder):
    monkeypatch.setattr(rescue, "SEALED", tmp_path / "sealed.json")
    folder, noted = tmp_path / "runs", []

    def make(planned: list[Run], *rest: object) -> None:
        noted.append(len(json.loads(rescue.SEALED.read_text(encoding="utf-8"))))
        if planned and planned[0].trouble:
            planned[0].folder.mkdir(parents=True, exist_ok=True)
            (planned[0].folder / OUTCOME).write_text("{}", encoding="utf-8")

    monkeypatch.setattr(rescue, "make", make)
    monkeypatch.setattr(rescue, "check", lambda *_: None)  # such a folder holds no run
    command = ["rescue", "--data", str(random_folder), "--seeds", "1", "--arms", "S", "--sealed"]
    command += ["--troubles", "spikes", "--runs", str(folder)]
    for _ in range(3):
        assert bench(command) == 0
    assert noted == [1] * 6


def test_clean_runs_alone_can_be_asked_for():
    assert rescue.Asked(troubles=("none",)).chosen == []
    assert rescue.Asked().chosen == OPEN


def test_a_yoked_run_needs_one_that_it_obeys():
    with pytest.raises(InputError, match="obeys clean runs of S"):
        planned(arms=("F0", "Y"))


def test_each_finished_run_is_written_at_once(tmp_path, random_folder, monkeypatch, capsys):
    """A machine may be taken away without a word."""
    out, written = tmp_path / "rescue.md", []

    def outcomes(planned: list[Run], make: object, sharing: int) -> Iterator[Outcome]:
        for number, _ in enumerate(planned):
            if number:
                rows = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
                written.append(len(rows))
            yield came_to(1.2 + number / 100)

    monkeypatch.setattr(rescue, "summaries_of", outcomes)
    command = ["rescue", "--data", str(random_folder), "--seeds", "1", "--arms", "S"]
    command += ["--troubles", "none"]
    assert bench([*command, "--out", str(out), "--runs", str(tmp_path / "runs")]) == 0
    assert written[0] == 1
    assert "| none | S | 1 | 1.2100 |" in out.read_text(encoding="utf-8")
    assert "| none | S | 1 | 1.2100 |" in capsys.readouterr().out


def test_a_run_that_is_finished_is_not_made_again(tmp_path):
    kept = {"artifact": True, "bpb": 1.5, "uniform": 3.2, "steps": 9, "step_ms": 1.0}
    kept |= {"exported": "raw", "struck": None, "acted": None, "alarms": 0}
    (tmp_path / "rescue.json").write_text(json.dumps(kept), encoding="utf-8")
    run = Run(tmp_path, ["--nonsense"], CLEAN, "F0", 1)
    assert outcome(*run) == kept
    with pytest.raises(InputError, match="holds a run with an artifact"):
        outcome(*run._replace(artifact=False))


@pytest.mark.parametrize("given", [{"seeds": 0}, {"seeds": 101}, {"priced": -1}])
def test_impossible_numbers_of_seeds_are_refused(given: dict[str, Any]) -> None:
    """Runs without the swarm were left out for a negative number."""
    (name, count), *_ = given.items()
    asked = rescue.Asked(troubles=("none",), **given)
    with pytest.raises(InputError, match=rf"^--{name} {count}: "):
        rescue.plan(rescue.base_of("tiny", Path("nowhere"), 40.0, ()), asked, [CLEAN], Path("runs"))


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_clock_that_no_run_can_have_is_refused(seconds: float) -> None:
    """A whole run was made by it first."""
    with pytest.raises(InputError, match=r"^--step-seconds .*: give seconds, or 0"):
        rescue.check_asked(rescue.Asked(step_seconds=seconds))


def test_false_alarms_need_clean_runs_of_the_swarm_and_its_price_a_few_without():
    base = rescue.base_of("tiny", Path("nowhere"), 40.0, ())
    asked = rescue.Asked(seeds=4, troubles=("none",), arms=("S",), priced=2, artifact=False)
    runs = rescue.plan(base, asked, [CLEAN], Path("runs"))
    assert [(run.seed, run.arm) for run in runs] == [
        *((1337, arm) for arm in ("F0", "S")),
        *((1338, arm) for arm in ("F0", "S")),
        (1339, "S"),
        (1340, "S"),
    ]
    assert not any(run.artifact for run in runs)
    assert asked.command().endswith("--troubles none --priced 2 --no-artifact")
    with pytest.raises(InputError, match="compared with all clean runs"):
        rescue.plan(base, rescue.Asked(priced=2), [CLEAN], Path("runs"))


def came_to(bpb: float | None, acted: int | None = None, alarms: int = 0) -> Outcome:
    return {
        "bpb": bpb,
        "uniform": 4.0 if bpb else None,
        "steps": 100,
        "step_ms": 500.0,
        "struck": 40,
        "acted": acted,
        "alarms": alarms,
    }


def found() -> Found:
    """Weights that break: the fixed run is dead with one seed, and the swarm is near the oracle."""
    return {
        (CLEAN, "F0"): {1: came_to(1.20), 2: came_to(1.30)},
        (CLEAN, "S"): {1: came_to(1.201), 2: came_to(1.299, alarms=1)},
        ("broken weights", "F0"): {1: came_to(None), 2: came_to(1.50)},
        ("broken weights", "S"): {1: came_to(1.21, acted=44), 2: came_to(1.40, acted=42)},
        ("half speed", "F0"): {1: came_to(1.22)},
        ("half speed", "S"): {1: came_to(1.21)},
        ("half speed", "O"): {1: came_to(1.219)},
    }


def test_shares_are_of_the_damage_and_dead_runs_know_nothing():
    rows = {(row["trouble"], row["arm"]): row for row in report(found())["rows"]}
    row = rows["broken weights", "S"]
    first, second = (4.0 - 1.21) / (4.0 - 1.20), (1.50 - 1.40) / (1.50 - 1.30)
    assert row["rescued"] == pytest.approx((first + second) / 2)
    assert row["damage"] == pytest.approx(((4.0 - 1.20) + (1.50 - 1.30)) / 2)
    assert row["lost"] == 1 and row["saved"] == 1
    assert row["seconds_to_act"] == pytest.approx((4 + 2) / 2 * 0.5)
    fixed = rows["broken weights", "F0"]
    assert fixed["dead"] == 1 and fixed["mean"] == 1.5 and fixed["lost"] == 2
    assert rows["broken weights", "O"]["mean"] == pytest.approx(1.25)
    assert rows["half speed", "S"]["rescued"] is None  # there is next to no damage
    assert rows["none", "S"]["less_F0"] == pytest.approx(0.0)


def test_an_arm_is_summed_up_with_what_clean_runs_pay():
    [swarm] = report(found())["arms"]
    assert swarm["median_rescued"] == pytest.approx(0.748, abs=1e-3)
    assert (swarm["lost"], swarm["saved"], swarm["runs"]) == (1, 1, 3)
    assert (swarm["false_alarms"], swarm["clean_runs"]) == (1, 2)
    text = text_of({**report(found()), "sealed_scorings": 3})
    assert "| broken weights | S | 2 | 1.3050 |" in text
    assert "Sealed troubles were scored 3 times." in text


def test_alarms_are_changes_that_only_trouble_asks_for():
    log = PROJECT / "tests" / "swarm" / "logs" / "loops.jsonl"
    changed = {
        verdict["lever"]
        for record in read(log)
        if record["kind"] == "cycle"
        for verdict in record["verdicts"]
        if verdict["before"] != verdict["after"]
    }
    assert {"lr_factor", "keep"} <= changed
    alarms = alarms_of(log)
    assert alarms and len(alarms) < sum(record["kind"] == "cycle" for record in read(log))
    assert alarms_of(Path("nowhere")) == ()
