"""The ladder's and the portfolio's runs, and what they report of them."""

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.harness import pairs
from bench.harness.runs import Summary
from bench.studies import ladder, portfolio
from errors import InputError
from settings import Settings
from settings.load import load_settings
from settings.variants import Variant, check_variants, reachable
from swarm.agents import AGENTS
from training.reference_clock import WORK, network_of, worked_with

BASE = ["--data", "nowhere", "--preset", "frontier-sprint"]


def runs(*bits: float, raw: float = 0.01) -> list:
    """Return summaries of runs whose weights without an average are worse by ``raw``."""
    both = [{ladder.SCORE: {"bpb": b}, "raw, plain": {"bpb": b + raw}} for b in bits]
    return [{"steps": 10, "step_ms": 1.0, "scores": scores} for scores in both]


def test_every_rung_is_a_run_of_its_own_that_can_be():
    rungs = ladder.rungs_of(BASE).items()
    found = {name: load_settings([*BASE, *options]) for name, options in rungs}
    assert len({settings.model_dump_json() for settings in found.values()}) == len(found)
    for name, settings in found.items():
        check_variants(settings, 1)
        assert settings.swarm == (name == "C")
        for agent in AGENTS:
            agent.of(settings)
    assert not found["A"].stages and not found["C"].stages
    assert found["B"].near_window == found["C"].near_window == 128 and not found["A"].near_window
    assert found["C"].swarm_agents == "frontier"
    assert found["C"].swarm_windows == [256, 512, 2048]
    assert found["B, batch"].stages[0].train_batch_tokens == 49_152


def test_a_small_preset_has_rungs_with_its_own_windows_and_half_its_batch():
    base = ["--data", "nowhere", "--preset", "tiny"]
    rungs = ladder.rungs_of(base)
    assert load_settings([*base, *rungs["C"]]).swarm_windows == [64, 128, 256]
    assert load_settings([*base, *rungs["B, batch"]]).stages[0].train_batch_tokens == 1024
    assert len(reachable(load_settings([*base, *ladder.stages_of_rungs(base)]))) == 7


def test_a_clock_of_all_rungs_has_their_steps_in_fp8():
    """It had them in bf16, so that a run with a stage in fp8 was refused by its clock."""
    stages = '[{until = 0.5, precision = "fp8"}, {until = 1.0}]'
    base = [*BASE, "--stages", stages]
    timed = reachable(load_settings([*base, *ladder.stages_of_rungs(base)]))
    assert {*reachable(load_settings([*base, *ladder.rungs_of(base)["B"]]))} <= {*timed}
    assert {each.precision for each in timed} == {"fp8", "native"}


def test_yoked_runs_obey_another_seed():
    planned = ladder.yoked(BASE, 3, Path("runs"))
    for (name, _, command), seed, before in zip(
        planned, (1337, 1338, 1339), (1339, 1337, 1338), strict=True
    ):
        assert name == "Y"
        assert command[command.index("--seed") + 1] == str(seed)
        assert command[-2:] == ["--swarm-yoke", f"runs/C-{before}/decisions.jsonl"]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[float, ...]]:
    """Scores of rungs by seed, which their runs have; none is made, and infinity ends them all."""
    scores: dict[str, tuple[float, ...]] = {}

    def summaries(
        planned: Sequence[tuple[Path, list[str]]],
        make: object,
        aloud: bool = False,
        sharing: int = 1,
    ) -> Iterator[Summary]:
        for folder, _ in planned:
            name, _, seed = folder.name.rpartition("-")
            bpb = scores[name][int(seed) - pairs.FIRST_SEED]
            if math.isinf(bpb):
                raise SystemExit(128 + signal.SIGTERM)
            yield runs(bpb)[0]

    monkeypatch.setattr(pairs, "summaries_of", summaries)
    return scores


def test_the_ladder_reports_differences_in_pairs(tmp_path, random_folder, scored, capsys):
    scored |= {"A": (1.2, 1.3), "C": (1.19, 1.288), "Y": (1.196, 1.292)}
    out = tmp_path / "ladder.json"
    command = ["ladder", "--data", str(random_folder), "--seeds", "2", "--out", str(out)]
    command += ["--rungs", "C", "Y"]
    assert bench(command) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["command"].endswith("--seeds 2 --rungs C Y")
    assert [row["name"] for row in result["rows"]] == ["A", "C", "Y"]
    less = {row["name"]: row for row in result["differences"]}
    assert less["C - A"]["mean"] == pytest.approx(-0.011)
    assert less["C - A"]["n"] == 2 and 0 < less["C - A"]["p"] < 0.1
    assert less["C - Y"]["mean"] == pytest.approx(-0.005) and less["C - Y"]["n"] == 2
    assert "B - Y" not in less and "| C | 2 |" in capsys.readouterr().out
    assert {"device", "commit", "date"} <= result.keys()


def test_a_ladder_that_is_ended_leaves_what_is_finished(tmp_path, random_folder, scored, capsys):
    scored |= {"A": (1.2, 1.3), "C": (1.19, math.inf)}
    out = tmp_path / "ladder.json"
    command = ["ladder", "--data", str(random_folder), "--out", str(out), "--rungs", "C"]
    assert bench(command) == 128 + signal.SIGTERM
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["name"], row["n"], row["less_A"]["n"]) for row in rows] == [
        ("A", 2, 2),
        ("C", 1, 1),
    ]
    assert "| C | 1 |" in capsys.readouterr().out


def test_each_finished_run_is_written_at_once(tmp_path, random_folder, scored, monkeypatch):
    """A machine may be taken away without a word."""
    scored |= {"A": (1.2,), "C": (1.19,)}
    out, found = tmp_path / "ladder.json", []
    summaries = pairs.summaries_of

    def watched(
        planned: Sequence[tuple[Path, list[str]]],
        make: Callable[..., Summary],
        aloud: bool = False,
        sharing: int = 1,
    ) -> Iterator[Summary]:
        for summary in summaries(planned, make):
            found.append(out.exists())
            yield summary

    monkeypatch.setattr(pairs, "summaries_of", watched)
    command = [
        "ladder",
        "--data",
        str(random_folder),
        "--out",
        str(out),
        "--rungs",
        "C",
        "--seeds",
        "1",
    ]
    assert bench(command) == 0
    assert found == [False, True]


def test_one_clock_has_the_steps_of_all_rungs(tmp_path, capsys):
    wanted, rungs = ladder.stages_of_rungs(BASE), ladder.rungs_of(BASE)
    table = dict.fromkeys(reachable(load_settings([*BASE, *wanted])), 1.0)
    clock = tmp_path / "clock.json"
    clock.write_text(json.dumps(clock_of(load_settings(BASE), table)), encoding="utf-8")
    timed = [*BASE, "--reference-clock", str(clock)]
    assert len(pairs.plan(timed, 1, rungs, tmp_path)) == len(rungs)
    table.popitem()
    clock.write_text(json.dumps(clock_of(load_settings(BASE), table)), encoding="utf-8")
    with pytest.raises(InputError, match="has no step of"):
        pairs.plan(timed, 1, rungs, tmp_path)


def clock_of(settings: Settings, steps: dict[Variant, float]) -> dict:
    """Return a reference clock's table, as `bench clock` writes it."""
    return {
        "device": "a GPU",
        "ranks": 1,
        "network": dict(network_of(settings)),
        "steps": [{"variant": asdict(each), "milliseconds": ms} for each, ms in steps.items()],
        "work": dict.fromkeys(WORK, 1.0),
        "worked_with": worked_with(settings),
    }


def test_a_condition_is_reported_once_each_way_has_a_run():
    ways = ["table", "swarm", "long decay"]
    planned = {"60 s": [pairs.Planned(way, Path(way), []) for way in ways]}
    found = {"60 s": {"table": runs(1.2), "swarm": runs(1.17)}}
    assert portfolio.rows_of(found, planned) == []
    found["60 s"]["long decay"] = runs(1.19)
    [row] = portfolio.rows_of(found, planned)
    assert row["best"] == "long decay"


def test_regret_is_over_the_best_fixed_table_of_a_condition():
    found = {"table": runs(1.2, 1.3), "swarm": runs(1.17, 1.27), "long decay": runs(1.19, 1.29)}
    row = portfolio.row_of("60 s", found)
    assert row["best"] == "long decay"
    assert row["regret"] == pytest.approx({"table": 0.01, "swarm": -0.02})
    result = portfolio.joined([], [row])
    assert "| 60 s | 2 | long decay | 0.0100 | -0.0200 |" in "\n".join(portfolio.text_of(result))


def test_a_condition_names_runs_beside_others():
    """Its table named other code's runs alone."""
    slow, other = ({**runs(1.2)[0], name: True} for name in ("beside", "other_code"))
    row = portfolio.row_of("60 s", {"table": [slow, *runs(1.3)], "swarm": [other, slow]})
    text = portfolio.text_of({"rows": [row], "mean_regret": row["regret"]})[2]
    assert "| 2, 1 by other code, 2 beside other processes on the GPU |" in text


def test_the_weights_without_an_average_are_a_fixed_table_that_no_run_is_made_for():
    found = {"table": runs(1.2, raw=-0.03), "swarm": runs(1.18), "long decay": runs(1.19)}
    row = portfolio.row_of("60 s", found)
    assert row["best"] == "raw weights"
    assert row["regret"] == pytest.approx({"table": 0.03, "swarm": 0.01})


def test_a_further_command_keeps_the_rows_of_other_conditions():
    rows = [
        {"condition": name, "regret": {"table": regret, "swarm": 0.0}}
        for name, regret in (("20 s", 0.01), ("60 s", 0.02), ("60 s", 0.04))
    ]
    result = portfolio.joined(rows[:2], rows[2:])
    assert result["rows"] == [rows[0], rows[2]]
    assert result["mean_regret"]["table"] == pytest.approx(0.025)


def test_a_seed_that_diverged_is_counted_and_not_compared():
    lost: Summary = {"scores": {}, "diverged": True}
    found = {"A": runs(1.2, 1.3, 1.4), "B": [lost, *runs(1.29, 1.388)], "C": [lost]}
    result = ladder.report(found, dict.fromkeys(found, ()))
    a, b, c = result["rows"]
    assert "diverged" not in a and (b["n"], b["diverged"], c["n"]) == (2, 1, 0)
    assert b["less_A"]["mean"] == pytest.approx(-0.011) and c["steps"] is None
    json.dumps(result, allow_nan=False)


def test_a_condition_leaves_out_what_diverged():
    lost: Summary = {"scores": {}, "diverged": True}
    found = {"table": [lost, *runs(1.3)], "swarm": runs(1.17, 1.27), "raw": [*runs(1.0), lost]}
    row = portfolio.row_of("60 s", found)
    assert (row["n"], row["best"], row["diverged"]) == (1, "table", {"table": 1, "raw": 1})
    assert row["regret"] == pytest.approx({"table": 0.0, "swarm": -0.03})
    result = {"rows": [row], "mean_regret": row["regret"]}
    assert "| 1, 1 of table diverged, 1 of raw diverged |" in portfolio.text_of(result)[2]
    planned = {"60 s": [pairs.Planned(way, Path(way), []) for way in found]}
    assert portfolio.rows_of({"60 s": {**found, "table": [lost, lost]}}, planned) == []


def test_a_condition_s_row_has_the_command_that_gives_it_again(tmp_path, random_folder, scored):
    """It named neither the conditions nor the other corpus, without which there is no such row."""
    scored |= {"table": (1.2,), "swarm": (1.19,), "long-decay": (1.21,)}
    folder, out = str(random_folder), tmp_path / "portfolio.json"
    command = ["portfolio", "--data", folder, "--other", folder, "--seeds", "1"]
    command += ["--conditions", "other corpus", "20 s", "--tried", "long decay", "--out", str(out)]
    assert bench(command) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["condition"] for row in rows] == ["other corpus", "20 s"]
    said = "python -m bench portfolio --data DIR --other DIR --preset frontier-sprint --seeds 1"
    said += " --conditions 'other corpus' '20 s' --tried 'long decay'"
    assert {row["command"] for row in rows} == {said}


def test_a_condition_without_its_data_is_refused(capsys):
    command = ["portfolio", "--data", "nowhere", "--conditions", "other corpus"]
    assert bench(command) == 2
    assert "give its data by --other" in capsys.readouterr().err


def test_every_way_can_be_run_with_the_smallest_preset():
    options, preset, _ = portfolio.CONDITIONS["tiny on a CPU"]
    base = ["--data", "nowhere", "--preset", preset, *options]
    ways = portfolio.ways_of(base, tuple(portfolio.TRIED))
    for way in ways.values():
        check_variants(load_settings([*base, *way]), 1)
    assert load_settings([*base, *ways["swarm"]]).swarm_windows == [64, 128, 256]
    assert [*portfolio.ways_of(base, ["long decay"])] == ["table", "swarm", "long decay"]
