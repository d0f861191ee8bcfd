"""Both protocols of the sprint: the runs that they make, and the open one's result."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.harness import pairs
from bench.harness.runs import Summary
from bench.studies import sprint
from errors import InputError
from runtime.run_folder import to_toml
from settings.load import load_settings
from training.resuming import kept

ABOUT = {"device": "a GPU", "commit": "abc", "date": "today"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Sequence[str]]:
    """The commands of runs, none of which is made; the result is in ``tmp_path``.

    Runs of seed 9 diverge.
    """
    commands: list[Sequence[str]] = []

    def summaries(
        planned: Sequence[tuple[Path, list[str]]],
        make: object,
        aloud: bool = False,
        sharing: int = 1,
    ) -> Iterator[Summary]:
        for _, command in planned:
            commands.append(command)
            if command[-1] == "9":
                yield {"scores": {"raw, plain": {"bpb": 9.0}}, "steps": 5, "diverged": True}
                continue
            number = len(commands)
            bits = {"averaged, plain": 1.3, "roundtrip, plain": 1.4, "roundtrip, TTT": 1.0}
            scores = {
                name: {"bpb": bpb + number, "seconds": 2.0 * number} for name, bpb in bits.items()
            }
            facts = {"steps": 10, "step_ms": 5.0, "code_bytes": 7, "artifact_bytes": 100 * number}
            yield {"scores": scores, **facts}

    monkeypatch.setattr(pairs, "summaries_of", summaries)
    monkeypatch.setattr(sprint, "RESULT", tmp_path / "open.json")
    monkeypatch.setattr(sprint, "provenance", lambda commit: ABOUT)
    monkeypatch.chdir(tmp_path)
    return commands


def test_protocols_start_from_their_presets(made: list[Sequence[str]], random_folder: Path) -> None:
    sprint.main("--mtp-num-heads", "0", data=random_folder, label="plain")
    sprint.main(data=random_folder, label="open", protocol="open")
    assert [command[:2] for command in made] == [
        ["--preset", "sprint"],
        ["--preset", "frontier-sprint"],
    ]
    assert made[0][4:6] == ["--mtp-num-heads", "0"]


def test_a_row_has_every_score_and_its_seconds() -> None:
    row = sprint.scores_of(
        {
            "roundtrip, sliding": {"bpb": 1.2, "seconds": 3.0},
            "roundtrip, TTT sgd": {"bpb": 1.1, "seconds": 4.0},
        }
    )
    assert (row["roundtrip, sliding"], row["sliding_seconds"]) == (1.2, 3.0)
    assert (row["ttt"], row["ttt_seconds"]) == (1.1, 4.0)
    assert "| 1.1000 | 4.0 |" in sprint.table([row])


def test_open_sprint_keeps_a_row_a_label_and_the_preset_last(
    made: list[Sequence[str]], tmp_path: Path, random_folder: Path
) -> None:
    def run(label: str, *settings: str) -> list[dict]:
        seeds = (1, 2) if label == "b" else (1,)
        runs = tmp_path / f"runs{len(made)}"
        given = ["--label", label, "--protocol", "open", "--runs", str(runs), "--seeds"]
        given += [*map(str, seeds), "--data", str(random_folder)]
        assert bench(["sprint", *given, "--", *settings]) == 0
        return json.loads((tmp_path / "open.json").read_text())["rows"]

    run("preset")
    rows = run("b", "--mtp-targets", "0")
    assert [row["label"] for row in rows] == ["b", "preset"]
    first = rows[0]
    assert (first["steps"], first["ms"], first["seeds"]) == (10, 5.0, [1, 2])
    scores = [first[name] for name in ("averaged", "artifact", "best", "evaluation_seconds")]
    assert scores == pytest.approx([3.8, 3.9, 3.5, 5.0])
    assert first["bytes"] == {"code": 7, "artifact": 300} and first["best_by"] == "TTT"
    assert first.items() >= ABOUT.items()
    assert [row["steps"] for row in run("preset")] == [10, 10]
    assert [row["best"] for row in run("b", "--mtp-targets", "1")] == [6.5, 5.0]


def test_each_finished_seed_is_kept_at_once(
    made: list[Sequence[str]],
    tmp_path: Path,
    random_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine may be taken away without a word."""
    rows = sprint.rows_of

    def ended(label: str, seeds: Sequence[int], runs: Sequence[Summary]) -> list[Summary]:
        if len(runs) == 3:
            raise KeyboardInterrupt
        return rows(label, seeds, runs)

    monkeypatch.setattr(sprint, "rows_of", ended)
    with pytest.raises(KeyboardInterrupt):
        sprint.main(data=random_folder, label="a", seeds=(1, 2, 3), protocol="open")
    [row] = json.loads((tmp_path / "open.json").read_text())["rows"]
    assert row["seeds"] == [1, 2]


def test_another_run_in_the_folder_is_refused(made: list[Sequence[str]], tmp_path: Path) -> None:
    (tmp_path / "runs" / "sprint-a-b-1337").mkdir(parents=True)
    with pytest.raises(InputError, match="holds another run"):
        sprint.main(data=tmp_path, label="a b")
    assert made == []


def test_a_series_goes_on_after_a_run_that_diverged(
    made: list[Sequence[str]], tmp_path: Path, random_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["sprint", "--data", str(random_folder), "--label", "a", "--protocol", "open"]
    assert bench([*command, "--seeds", "9"]) == 1
    assert not (tmp_path / "open.json").exists()
    assert bench([*command, "--seeds", "1", "9", "2"]) == 1
    assert "| a, diverged | 9 | - |" in capsys.readouterr().out
    [row] = json.loads((tmp_path / "open.json").read_text())["rows"]
    assert row["seeds"] == [1, 2] and row["diverged"] == [9]
    assert row["averaged"] == pytest.approx(1.3 + (2 + 4) / 2)


def test_a_row_says_that_other_code_has_made_its_run() -> None:
    [row] = sprint.rows_of("a", [1], [{"scores": {"raw, plain": {"bpb": 1.0}}, "other_code": True}])
    assert row["label"] == "a, by other code" and row["raw, plain"] == 1.0


def test_the_open_result_can_be_written_before_a_run_is_made(
    made: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random_folder: Path
) -> None:
    monkeypatch.setattr(sprint, "RESULT", tmp_path / "none" / "open.json")
    with pytest.raises(InputError, match="cannot be written"):
        sprint.main(data=random_folder, label="a", protocol="open")
    assert made == []
    assert sprint.main(data=random_folder, label="a") == 0


def test_open_sprint_has_a_clock(made: list[Sequence[str]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="150 s or less"):
        sprint.main("--wallclock", "151", data=tmp_path, label="long", protocol="open")
    assert made == []


def test_a_finished_run_has_its_tokenizers_vocabulary(tmp_path: Path) -> None:
    """A series whose tokenizer has other than 1,024 tokens could not be continued."""
    options = ["--preset", "sprint", "--data", str(tmp_path)]
    finished = load_settings([*options, "--seed", "1"]).with_vocabulary(300, 2)
    (tmp_path / "a-1").mkdir()
    (tmp_path / "a-1" / "settings.toml").write_text(to_toml(finished.model_dump()))
    assert len(sprint.plan(options, [1], "a", tmp_path)) == 1
    for other in ("--vocab-size", "301"), ("--matrix-lr", "9"):
        with pytest.raises(InputError, match="holds another run"):
            sprint.plan([*options, *other], [1], "a", tmp_path)


@pytest.mark.parametrize("name", ["data", "tokenizer", "reference-clock", "kg-scores"])
def test_a_series_goes_on_where_a_path_is_relative(tmp_path, monkeypatch, name: str) -> None:
    """A run's folder keeps the absolute path, so the series was refused as another one."""
    monkeypatch.chdir(tmp_path)
    Path("runs/a-1").mkdir(parents=True)
    settings = load_settings(["--preset", "sprint", f"--{name}", "here/file.json"])
    Path("runs/a-1/settings.toml").write_text(to_toml(kept(settings)))
    pairs.check(Path("runs/a-1"), settings)
    with pytest.raises(InputError, match="holds another run"):
        other = load_settings(["--preset", "sprint", f"--{name}", "there.json"])
        pairs.check(Path("runs/a-1"), other)


def test_a_label_that_leaves_the_folder_of_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves the runs' folder"):
        sprint.plan([], [1], "sprint-a/../../x", tmp_path)


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_seed_and_one_twice_are_refused(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="give at least one, each once"):
        sprint.main(data=tmp_path, seeds=seeds)
