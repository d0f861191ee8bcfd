"""The ladder's and the portfolio's runs, and what they report of them."""

import json
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.studies import ladder, portfolio
from settings.load import load_settings
from settings.variants import check_variants
from swarm.agents import AGENTS

BASE = ["--data", "nowhere", "--preset", "frontier-sprint"]


def runs(*bits: float) -> list:
    return [{"steps": 10, "step_ms": 1.0, "scores": {ladder.SCORE: {"bpb": b}}} for b in bits]


def test_every_rung_is_a_run_of_its_own_that_can_be():
    found = {name: load_settings([*BASE, *options]) for name, options in ladder.RUNGS.items()}
    assert len({settings.model_dump_json() for settings in found.values()}) == len(found)
    for name, settings in found.items():
        check_variants(settings, 1)
        assert settings.swarm == (name == "C")
        for agent in AGENTS:
            agent.of(settings)
    assert not found["A"].stages and not found["C"].stages
    assert found["B"].lean == found["C"].lean == 0.6
    assert found["C"].swarm_agents == "frontier"


def test_yoked_runs_obey_another_seed():
    planned = ladder.yoked(BASE, 3, Path("runs"))
    for (name, _, command), seed, before in zip(
        planned, (1337, 1338, 1339), (1339, 1337, 1338), strict=True
    ):
        assert name == "Y"
        assert command[command.index("--seed") + 1] == str(seed)
        assert command[-2:] == ["--swarm-yoke", f"runs/C-{before}/decisions.jsonl"]


def test_the_ladder_reports_differences_in_pairs(tmp_path, monkeypatch, capsys):
    scores = {"A": (1.2, 1.3), "C": (1.19, 1.288), "Y": (1.196, 1.292)}

    def made(planned, found) -> None:
        for name in dict.fromkeys(name for name, _, _ in planned):
            found[name] = runs(*scores[name])

    monkeypatch.setattr(ladder, "make", made)
    out = tmp_path / "ladder.json"
    command = ["ladder", "--data", "nowhere", "--seeds", "2", "--out", str(out)]
    command += ["--rungs", "C", "Y"]
    assert bench(command) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in result["rows"]] == ["A", "C", "Y"]
    less = {row["name"]: row for row in result["differences"]}
    assert less["C - A"]["mean"] == pytest.approx(-0.011)
    assert less["C - A"]["n"] == 2 and 0 < less["C - A"]["p"] < 0.1
    assert less["C - Y"]["mean"] == pytest.approx(-0.005) and less["C - Y"]["n"] == 2
    assert "B - Y" not in less and "| C | 2 |" in capsys.readouterr().out
    assert {"device", "commit", "date"} <= result.keys()


def test_regret_is_over_the_best_fixed_table_of_a_condition():
    found = {"table": runs(1.2, 1.3), "swarm": runs(1.17, 1.27), "raw weights": runs(1.19, 1.29)}
    row = portfolio.row_of("60 s", found)
    assert row["best"] == "raw weights"
    assert row["regret"] == pytest.approx({"table": 0.01, "swarm": -0.02})
    result = {"rows": [row], "mean_regret": row["regret"]}
    assert "| 60 s | 2 | raw weights | 0.0100 | -0.0200 |" in "\n".join(portfolio.text_of(result))


def test_a_condition_without_its_data_is_refused(capsys):
    command = ["portfolio", "--data", "nowhere", "--conditions", "other corpus"]
    assert bench(command) == 2
    assert "give its data by --other" in capsys.readouterr().err


def test_every_way_can_be_run_with_the_smallest_preset():
    options, preset, _ = portfolio.CONDITIONS["tiny on a CPU"]
    base = ["--data", "nowhere", "--preset", preset, *options]
    for way in (*portfolio.WAYS.values(), *portfolio.TRIED.values()):
        check_variants(load_settings([*base, *way]), 1)
