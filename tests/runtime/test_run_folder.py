import io
import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from errors import InputError
from runtime import run_folder
from runtime.run_folder import RunFolder, environment, read_log, to_toml


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def events(run: RunFolder) -> list[dict]:
    return [strict(line) for line in run.log_file.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "tiny-seed1", {"seed": 1})


def test_default_names_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder.create(None, "tiny-seed1", {}).path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent == Path("runs") and "-tiny-seed1" in path.name for path in paths)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(tmp_path, "x", {})
    with pytest.raises(InputError, match="cannot make run folder"):
        RunFolder.create(tmp_path / "notes.txt", "x", {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reopen_wants_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder.reopen(tmp_path)


def test_settings_come_back_from_toml() -> None:
    settings = {
        "text": 'quote " backslash \\ newline \n tab \t del \x7f bell \x07 ▁ 😀',
        "small": 1e-08,
        "large": 1e300,
        "third": 1 / 3,
        "endless": float("inf"),
        "count": 786_432,
        "negative": -3,
        "on": True,
        "layers": [9, 10],
        "names": ["a", "b"],
        "nothing": [],
    }
    text = to_toml(settings | {"absent": None, "path": Path("/a b/ç")})
    assert tomllib.loads(text) == settings | {"path": "/a b/ç"}
    assert all(type(tomllib.loads(text)[key]) is type(value) for key, value in settings.items())
    with pytest.raises(TypeError, match="cannot hold"):
        to_toml({"table": {}})


def test_create_writes_settings_and_environment(run: RunFolder) -> None:
    assert tomllib.loads((run.path / "settings.toml").read_text()) == {"seed": 1}
    found = strict((run.path / "environment.json").read_text())
    assert found["numpy"] == np.__version__
    assert found["command"] == shlex.join(sys.orig_argv)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_environment_names_the_projects_own_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "unpacked"
    inner.mkdir()
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "one")

    monkeypatch.setattr(run_folder, "PROJECT", tmp_path)
    found = environment()
    assert (found["git_commit"], found["git_dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "new.py").touch()
    found = environment()
    assert (found["git_dirty"], found["git_changed"]) == (True, "new.py")

    monkeypatch.setattr(run_folder, "PROJECT", inner)
    assert environment()["git_commit"] is None, "a repository around the project is not its own"


def test_only_what_can_change_the_code_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's notes, texts and environment made a run unfit to be submitted."""
    monkeypatch.setattr(run_folder, "PROJECT", tmp_path)
    (tmp_path / "notes.md").write_text("one")
    (tmp_path / "bench/results").mkdir(parents=True)
    (tmp_path / "bench/results/open-sprint.json").write_text("one")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "run.toml").touch()
    (tmp_path / "bench/results/open-sprint.json").write_text("a further row")
    (tmp_path / ".venv").symlink_to("/")
    found = environment()
    assert (found["git_dirty"], found["git_changed"]) == (False, None)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/own.toml").touch()
    assert environment()["git_changed"] == "presets/own.toml"
    (tmp_path / "notes.md").write_text("two")
    assert environment()["git_changed"] == "notes.md"


def test_log_lines_are_json_whatever_the_numbers(run: RunFolder) -> None:
    inf, nan = float("inf"), float("nan")
    run.log("step", step=1, loss=nan, norm=-inf, banks=[1.0, inf], x=np.float32(0.5), f=Path("a"))
    assert events(run) == [
        {
            "kind": "step",
            "step": 1,
            "loss": None,
            "loss_nonfinite": "nan",
            "norm": None,
            "norm_nonfinite": "-inf",
            "banks": [1.0, None],
            "banks_nonfinite": "inf",
            "x": 0.5,
            "f": "a",
        }
    ]


def test_a_resumed_log_has_no_doubles_and_no_torn_line(run: RunFolder) -> None:
    run.log("start")
    for step in range(6):
        run.log("step", step=step)
    run.close()
    with run.log_file.open("a") as file:
        file.write('{"kind": "step", "st')

    again = RunFolder.reopen(run.path)
    again.log("resume")
    assert [event.get("step") for event in events(again)] == [None, 0, 1, 2, 3, 4, 5, None]
    again.truncate_log(3)
    again.log("step", step=4)
    assert [event.get("step") for event in events(again)] == [None, 0, 1, 2, 3, None, 4]


def test_read_log_passes_over_what_is_no_event(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "a"}\n[1]\n\xff\xfe\n{"kind": "b"}\n{"ki')
    assert [event["kind"] for event in read_log(tmp_path / "log.jsonl")] == ["a", "b"]


def test_summary_is_json_and_replaced(run: RunFolder) -> None:
    run.write_summary({"bpb": 1.1})
    run.write_summary({"bpb": float("nan"), "weights": {"raw": 1.2}})
    found = strict((run.path / "summary.json").read_text())
    assert found == {"bpb": None, "bpb_nonfinite": "nan", "weights": {"raw": 1.2}}


@pytest.mark.parametrize("name", ["log.jsonl", "summary.json", "decisions.jsonl", "checkpoints"])
def test_a_folder_with_a_link_is_not_resumed(run: RunFolder, tmp_path: Path, name: str) -> None:
    """F2: the run would write to, or publish, what the link points to."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(victim)
    with pytest.raises(InputError, match=f"{name}: is a link"):
        RunFolder.reopen(run.path)
    assert victim.read_text() == "mine\n"


def test_a_line_of_another_form_does_not_keep_a_run_from_being_resumed(run: RunFolder) -> None:
    """F9: a step that is a text ended the resumption in a TypeError."""
    run.log("step", step=1)
    run.close()
    with run.log_file.open("a") as file:
        file.write('{"kind": "step", "step": "x"}\n' + "[" * 100_000 + "\n")
    again = RunFolder.reopen(run.path)
    again.log("step", step=2)
    assert [event["step"] for event in read_log(again.log_file)] == [1, 2]


class FullDisk:
    """A file of which a write takes as many bytes as there is room for, then none."""

    def __init__(self, log: io.FileIO, room: int) -> None:
        self.log, self.room = log, room

    def write(self, line: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        part = line[: self.room]
        self.room -= len(part)
        return self.log.write(part) or 0


def test_a_full_disk_costs_lines_of_the_log_and_not_the_run(run: RunFolder) -> None:
    """F3: ENOSPC in a line of the log ended the run, without a checkpoint of its last steps."""
    log = run._log
    run.log("step", step=1)
    run._log = FullDisk(log, room=10)  # pyright: ignore[reportAttributeAccessIssue]
    said: list[str] = []
    run.warn = said.append
    for step in (2, 3, 4):
        run.log("step", step=step)
    assert said == [f"lines of {run.log_file} are lost: no room"]
    run._log = log
    run.log("step", step=5)
    run.close()
    assert run.lost_lines == 3
    assert [event["step"] for event in read_log(run.log_file)] == [1, 5]


def test_a_second_process_is_refused_until_the_first_has_ended(run: RunFolder) -> None:
    """F12: two processes wrote to one folder, and both ended with 0."""
    with pytest.raises(InputError, match="in use by another process"):
        RunFolder.reopen(run.path)
    with pytest.raises(InputError, match="in use by another process"):
        RunFolder.create(run.path, "x", {})
    run.close()
    RunFolder.reopen(run.path).close()


def test_without_locks_a_run_goes_on_with_a_warning(run, monkeypatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    run.close()
    monkeypatch.setattr("fcntl.flock", refuse)
    RunFolder.reopen(run.path).close()
    assert capsys.readouterr().out.count("cannot be locked") == 1
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(run.path, "x", {})


def test_the_folder_of_a_run_without_a_checkpoint_can_be_used_again(run: RunFolder) -> None:
    """U7: a start that was refused left a folder that no start took."""
    run.log("step", step=1)
    (run.path / ".summary.json.99.part").touch()
    (run.checkpoints / ".step_000001.part").mkdir(parents=True)
    run.close()
    again = RunFolder.create(run.path, "x", {"seed": 2})
    assert tomllib.loads((run.path / "settings.toml").read_text()) == {"seed": 2}
    assert events(again) == []
    again.close()
    names = {path.name for path in run.path.iterdir()}
    assert names == {"settings.toml", "environment.json", "log.jsonl"}


@pytest.mark.parametrize(
    "name", ["artifact.bin", "summary.json", "notes.txt", "checkpoints/step_000009"]
)
def test_the_folder_of_any_other_run_is_left_alone(run: RunFolder, name: str) -> None:
    run.close()
    (run.path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(run.path, "x", {})
    assert (run.path / name).exists() and (run.path / "settings.toml").exists()


def test_what_killed_writers_left_goes_at_the_next_start(run: RunFolder) -> None:
    halves = [".artifact.bin.7.part", ".log.jsonl.123.part", "checkpoints/.step_000002.part"]
    (run.checkpoints).mkdir()
    for name in [*halves, ".notes.txt.7.part"]:
        (run.path / name).write_text("half")
    run.close()
    RunFolder.reopen(run.path).close()
    left = [name for name in halves if (run.path / name).exists()]
    assert left == []
    assert (run.path / ".notes.txt.7.part").exists()


def test_what_follows_a_checkpoint_is_logged_again(run: RunFolder) -> None:
    for kind, step in (("step", 1), ("checkpoint", 1), ("validation", 1), ("step", 2)):
        run.log(kind, step=step)
    run.log("settings", changed={})
    run.truncate_log(1)
    assert [event["kind"] for event in events(run)] == ["step", "checkpoint", "settings"]


def test_a_summary_that_cannot_be_written_costs_one_warning(run: RunFolder, tmp_path: Path) -> None:
    said: list[str] = []
    run.warn = said.append
    shutil.rmtree(run.path)
    run.write_summary({"bpb": 1.1})
    assert said == [f"no {run.path / 'summary.json'}: No such file or directory"]
