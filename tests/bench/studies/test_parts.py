"""The parts of the open sprint: their runs, and what the table says that each brought."""

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.harness import pairs
from bench.harness.runs import Summary
from bench.studies import parts
from errors import InputError
from settings import Settings
from settings.load import load_settings
from settings.variants import check_variants

UNTRAINED = {"preset", "val_points"}  # the curve is scored off the clock
# Settings that preset tiny need not change, and why.
NOT_IN_TINY = {
    "preset": "a name",
    "xsa_last_n": "its four layers are the default, too; see below",
    "vocab_size": "the tokenizer of its corpus has 1,024 tokens",
    "bigram_vocab_size": "without its table a short run scores 0.037 worse",
    "ve_enabled": "without value embeddings a short run scores 0.022 worse",
}


def preset(name: str) -> Settings:
    return load_settings(["--preset", name], {})


def test_all_parts_together_are_the_preset():
    """A setting that one of the presets gets must have a part."""
    wanted, options = preset(parts.TO), parts.cumulative()
    *_, before, last = options.values()
    assert last == ("--preset", parts.TO)
    added = [
        word
        for name in parts.PARTS["test-time training"]
        for word in parts.option(name, getattr(wanted, name))
    ]
    together = load_settings([*before, *added], {})
    fields = set(Settings.model_fields) - UNTRAINED
    assert together.model_dump(include=fields) == wanted.model_dump(include=fields)


def test_each_part_is_a_run_of_its_own_that_can_be():
    found = [load_settings(options, {}) for options in parts.cumulative().values()]
    for settings, before in zip(found, [preset(parts.FROM), *found], strict=False):
        check_variants(settings, 1)
        assert settings.model_dump(exclude=UNTRAINED) != before.model_dump(exclude=UNTRAINED)


def test_preset_tiny_has_every_part_of_the_open_sprint():
    """What the sprint's preset changes, tiny changes too; what has no size, in the same way."""
    wanted, tiny, defaults = preset(parts.TO), preset("tiny"), Settings()
    for name in Settings.model_fields.keys() - NOT_IN_TINY.keys():
        value, default, ours = (getattr(each, name) for each in (wanted, defaults, tiny))
        if value != default:
            assert ours != default, f"preset tiny lacks {name}"
            assert ours == value or (value and not isinstance(value, bool | str)), name
    assert tiny.xsa_last_n == tiny.num_layers
    staged = [set().union(*(each.model_fields_set for each in of.stages)) for of in (wanted, tiny)]
    assert staged[0] <= staged[1]


def run(averaged: float, ms: float = 60.0) -> Summary:
    bits = {"averaged, plain": averaged, "roundtrip, plain": averaged + 0.01}
    bits |= {"roundtrip, sliding": averaged - 0.01, "roundtrip, TTT both": averaged - 0.02}
    scores = {name: {"bpb": bpb, "seconds": 23.0} for name, bpb in bits.items()}
    facts = {"steps": 10, "step_ms": ms, "code_bytes": 7, "artifact_bytes": 100}
    return {"scores": scores, **facts}


def test_a_part_is_compared_with_the_one_before_at_equal_seeds():
    found = {
        "gates": [run(1.2), run(1.3), run(1.4)],
        "lanes": [run(1.19, ms=61.5), run(1.286, ms=61.5)],
        "windows": [run(1.1)],
    }
    gates, lanes, windows = parts.table(found).splitlines()[2:]
    assert gates == (
        "| gates | 3 | 10 | 60.00 | - | 1.3000 ± 0.1000 | - | - | 1.3100 ± 0.1000 | - | - "
        "| 1.2800 ± 0.1000 | - | - | 23.0 |"
    )
    assert lanes.startswith("| lanes | 2 | 10 | 61.50 | +1.50 | 1.2380 ± 0.0679 | -0.0120 ± 0.0028")
    assert windows.split(" | ")[4] == "-"  # XSA, before it, was not run


def test_a_seed_that_diverged_is_counted_and_not_compared():
    lost: Summary = {"scores": {}, "diverged": True}
    found = {"gates": [lost, run(1.3)], "lanes": [run(1.2), run(1.29)], "XSA": [lost]}
    gates, lanes, xsa = parts.table(found).splitlines()[2:]
    assert gates.startswith("| gates | 1, 1 diverged | 10 | 60.00 | - | 1.3000 |")
    assert lanes.split(" | ")[5:7] == ["1.2450 ± 0.0636", "-0.0100"]
    assert xsa == f"| XSA | 0, 1 diverged{' | -' * 13} |" and xsa.count("|") == lanes.count("|")


def test_rows_and_table_are_written_after_each_run(tmp_path: Path, random_folder, monkeypatch):
    out, rows, seen = tmp_path / "parts.md", tmp_path / "rows.json", []

    def summaries(
        planned: Sequence[tuple[Path, list[str]]], make: object, aloud: bool, sharing: int
    ) -> Iterator[Summary]:
        for number, _ in enumerate(planned):
            if number:
                seen.append([row["label"] for row in json.loads(rows.read_text())["rows"]])
            yield run(1.2 - number / 100)

    monkeypatch.setattr(pairs, "summaries_of", summaries)
    command = ["parts", "--data", str(random_folder), "--seeds", "1"]
    command += ["--out", str(out), "--rows", str(rows)]
    assert bench([*command, "--parts", "test-time training", "quantising"]) == 0
    assert seen == [["quantising"]]
    first, last = json.loads(rows.read_text())["rows"]
    assert (
        first["settings"][:2] == ["--preset", "sprint"] and "--quant-trellis" in first["settings"]
    )
    assert (last["label"], last["settings"], last["seeds"]) == ("test-time training", [], [1337])
    assert last["best_by"] == "TTT both" and last["best"] == pytest.approx(1.17)
    text = out.read_text(encoding="utf-8")
    assert "--parts quantising 'test-time training'" in text and "commit:" in text
    assert "| test-time training | 1 | 10 | 60.00 | +0.00 | 1.1900 | -0.0100 | - |" in text


def test_small_steps_get_more_seeds(tmp_path: Path, random_folder, monkeypatch):
    """At the first seed lanes bring 0.001, and XSA 0.01 to the artifact alone."""
    made, scores = [], {"gates": 1.2, "lanes": 1.199, "XSA": 1.199, "windows": 1.19}

    def summaries(planned: Sequence[tuple[Path, list[str]]], *others: object) -> Iterator[Summary]:
        for folder, _ in planned:
            made.append(folder.name)
            of = run(scores[folder.name.rpartition("-")[0]])
            if "XSA" in folder.name:
                of["scores"]["roundtrip, plain"]["bpb"] -= 0.01
            yield of

    monkeypatch.setattr(pairs, "summaries_of", summaries)
    command = ["parts", "--data", str(random_folder), "--seeds", "1", "--seeds-of-small", "3"]
    command += ["--out", str(tmp_path / "parts.md"), "--rows", str(tmp_path / "rows.json")]
    assert bench([*command, "--parts", *scores]) == 0
    assert made == [f"{name}-1337" for name in scores] + [
        f"{name}-{seed}" for seed in (1338, 1339) for name in ("gates", "lanes")
    ]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [len(row["seeds"]) for row in rows] == [3, 3, 1, 1]


def test_a_series_that_finishes_no_run_prints_no_table(
    tmp_path: Path, random_folder, monkeypatch, capsys
) -> None:
    """It said so in place of the table, on stdout."""

    def summaries(*planned: object) -> Iterator[Summary]:
        raise SystemExit(128 + signal.SIGTERM)
        yield

    monkeypatch.setattr(pairs, "summaries_of", summaries)
    command = ["parts", "--data", str(random_folder), "--seeds", "1", "--parts", "gates"]
    command += ["--out", str(tmp_path / "parts.md"), "--rows", str(tmp_path / "rows.json")]
    assert bench(command) == 128 + signal.SIGTERM
    said = capsys.readouterr()
    assert "no run" not in said.out and said.err == "no run is finished\n"
    assert not [*tmp_path.glob("*.md")]


@pytest.mark.parametrize(("seeds", "of_small"), [(1, -1), (3, 2), (3, 3), (1, 101)])
def test_seeds_of_small_steps_that_change_nothing_or_never_end_are_refused(
    tmp_path: Path, seeds: int, of_small: int
) -> None:
    with pytest.raises(InputError, match=rf"^--seeds-of-small {of_small}: give more than --seeds"):
        parts.main(data=tmp_path, seeds=seeds, seeds_of_small=of_small)


@pytest.mark.parametrize(
    "settings", [("--matrix-lr", "0.1"), ("--ema-decay", "0.996"), ("--no-skip-gates",)]
)
def test_a_setting_of_a_part_is_refused(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """It held until its part, and again in the last row."""
    with pytest.raises(InputError, match=r"a part sets it"):
        parts.main(*settings, data=tmp_path, runs=tmp_path / "runs")
