"""What several seeds are worth against another record."""

import json
import math
import statistics
from pathlib import Path

import pytest
from scipy.stats import t, ttest_ind

from artifact.__main__ import main
from artifact.submission.asked import NO_RIVAL, Rival
from artifact.submission.entry import Entry
from artifact.submission.verdict import MARGIN, Verdict
from errors import InputError
from runtime.records import Environment, Row, Summary
from settings import Settings
from tests.artifact.submission.runs import METHOD, like

PLACE = Environment(world_size=1, devices=["cpu"], torch="2")
TOKENS, BYTES = 50, 200
MARGIN_BPB = MARGIN / math.log(2) * TOKENS / BYTES


def entries_of(*seeds: dict[str, float]) -> list[Entry]:
    """Runs with these bits per byte by method."""
    entries = []
    for bpb in seeds:
        rows = {
            f"roundtrip, {name}": Row(bpb=b, nats=1.0, tokens=TOKENS, bytes=BYTES, seconds=1.0)
            for name, b in bpb.items()
        }
        summary = Summary(steps=1, train_seconds=1.0, code_bytes=1, artifact_bytes=1, scores=rows)
        entries.append(Entry(Path(), Settings(), summary, PLACE))
    return entries


def test_the_method_with_the_lowest_mean_counts_and_the_choice_is_said() -> None:
    entries = entries_of({"plain": 1.3, "sliding": 1.1}, {"plain": 1.0, "sliding": 1.15})
    entries[0].summary.scores["raw, plain"] = entries[1].score(METHOD)
    verdict = Verdict.of(entries, NO_RIVAL)
    assert verdict.method == "roundtrip, sliding"
    assert verdict.mean == statistics.fmean([1.1, 1.15])
    assert str(verdict).endswith("; chosen after the runs as the lowest of 2 methods")
    named = Verdict.of(entries, NO_RIVAL, "plain")
    assert named.method == METHOD and "chosen" not in str(named)
    with pytest.raises(InputError, match="--method TTT: all runs have plain, sliding"):
        Verdict.of(entries, NO_RIVAL, "TTT")


def test_a_record_must_be_better_by_the_margin() -> None:
    """Three seeds 0.0001 better and 1e-6 apart had made p = 1.3e-05."""
    entries = entries_of(*({"plain": 1.1 + seed * 1e-6} for seed in range(3)))
    worse = Verdict.of(entries, Rival(1.1001))
    assert worse.margin == pytest.approx(MARGIN_BPB)
    assert worse.p_value is not None and worse.p_value > 0.99
    better = Verdict.of(entries, Rival(1.1001 + MARGIN_BPB))
    assert better.p_value is not None and better.p_value < 1e-3
    assert Verdict.of(entries[:1], Rival(2.0)).p_value is None


def test_with_the_rival_s_spread_it_is_welch_s_test() -> None:
    ours, theirs = [1.10, 1.11, 1.12], [1.14, 1.15, 1.19]
    entries = entries_of(*({"plain": bpb} for bpb in ours))
    rival = Rival(statistics.fmean(theirs), statistics.stdev(theirs), 3)
    verdict = Verdict.of(entries, rival)
    _, expected = map(
        float,
        ttest_ind(ours, [bpb - MARGIN_BPB for bpb in theirs], equal_var=False, alternative="less"),
    )
    assert verdict.p_value == pytest.approx(expected)
    assert "Welch" in str(verdict)
    with pytest.raises(InputError, match="--against-std"):
        Rival(None, 0.1)


def test_three_seeds_are_tested_against_a_score(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {4: 1.12, 2: 1.10, 3: 1.11}
    runs = [like(run, tmp_path / f"r{seed}", seed, bpb) for seed, bpb in values.items()]
    like(run, tmp_path / "lucky", 9, 1.2)
    arguments = [*map(str, runs), "--out", str(tmp_path / "out"), "--against", "1.13"]
    arguments += ["--no-audit", "--github-id", "me"]
    assert main(["submit", *arguments]) == 0
    printed = capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert facts["seeds"] == [2, 3, 4] and list(facts["seed_results"]) == ["2", "3", "4"]
    assert facts["val_bpb"] == pytest.approx(1.11)
    assert facts["val_bpb_std"] == pytest.approx(0.01)
    # (1.11 - 1.13 + margin) / (0.01 / sqrt 3), two degrees of freedom
    row = json.loads((run / "summary.json").read_text())["scores"][METHOD]
    margin = MARGIN / math.log(2) * row["tokens"] / row["bytes"]
    expected = t.cdf((margin - 0.02) / 0.01 * 3**0.5, df=2)
    assert facts["p_value"] == pytest.approx(expected)
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"p = {expected:.2g}" in printed and f"p = {expected:.2g}" in page
    assert "SEED=2 DATA_PATH=DIR torchrun --standalone --nproc_per_node=1 train_gpt.py" in page
    # A finished run with the same settings that was not given.
    assert facts["other_runs"]["lucky"]["seed"] == 9
    assert "lucky (seed 9, bpb 1.2)" in page and "lucky (seed 9)" in printed
    # What the contest's records have, and what is left to a person.
    assert facts["track"] == "10min_16mb" and facts["hardware"].startswith("1x ")
    assert facts["pytorch_version"] and facts["seed_results"]["2"]["eval_seconds"] > 0
    assert facts["github_id"] == "me" and "--author --blurb" in printed
    assert "- `num_layers` = 2" in page
