"""Runs that break a rule are refused, a line for each; of a log only text is published."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from artifact.submission.accounts import audited, check_alike, checked
from artifact.submission.entry import Entry
from errors import InputError
from files import PROJECT
from tests.artifact.submission.runs import METHOD, like, score, spoil
from tests.small import clean_environment

TRACK = "10min_16mb"


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    return like(run, tmp_path / "other", 2, 1.0)


def test_an_honest_run_has_a_table_of_its_accounts(other: Path) -> None:
    table = checked([Entry.read(other)], None, TRACK)
    names = [line[9:28].strip() for line in table.splitlines()]
    assert names == [
        *("scores", "whole split", "training clock", "evaluation clock", "commit"),
        *("files and network", "data", "source text"),
    ]
    assert "BROKEN" not in table and table.count("seed 2") == 8
    assert [line[:5] for line in table.splitlines()] == ["holds"] * 8


def break_rule(run: Path, rule: str) -> None:
    row = json.loads((run / "summary.json").read_text())["scores"][METHOD]
    if rule == "training clock":
        spoil(run, "summary.json", train_seconds=900.0)
    elif rule == "evaluation clock":
        score(run, METHOD, seconds=2000.0)
    elif rule == "whole split":
        part = {"tokens": row["tokens"] // 2, "bytes": row["bytes"] // 2}
        score(run, METHOD, **part, bpb=row["nats"] / math.log(2) * part["tokens"] / part["bytes"])
    elif rule == "scores":
        summary = json.loads((run / "summary.json").read_text())
        summary["scores"][METHOD] |= {"bpb": -0.05}
        (run / "summary.json").write_text(json.dumps(summary))
    elif rule == "sums":
        score(run, METHOD, bpb=row["bpb"] / 1.02)
    elif rule == "commit":
        spoil(run, "environment.json", git_dirty=True)
    elif rule == "network":
        observed = {"files": [], "network": ["socket.connect in x"]}
        spoil(run, "summary.json", observed=observed)
    elif rule == "data":
        spoil(run, "summary.json", data={"tokenizer.model": "0" * 64})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("training clock", r"training clock: 900\.0 of 600 s"),
        ("evaluation clock", "evaluation clock: 2000"),
        ("whole split", "whole split: "),
        ("scores", "is not what log.jsonl says"),
        ("sums", "its nats, tokens and bytes make"),
        ("commit", "git_dirty"),
        ("network", "files and network: network: socket.connect"),
        ("data", "data: scored on other files"),
    ],
)
def test_a_run_that_breaks_a_rule_is_refused(other: Path, rule: str, words: str) -> None:
    """Each of these was accepted."""
    break_rule(other, rule)
    with pytest.raises(InputError, match=words) as refused:
        checked([Entry.read(other)], None, TRACK)
    assert str(refused.value).startswith(str(other)) and "\n" not in str(refused.value)


def test_each_broken_rule_has_a_line(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_rule(other, "training clock")
    break_rule(other, "commit")
    with pytest.raises(InputError, match="commit: changes"):
        checked([Entry.read(other)], None, TRACK)
    assert "training clock: 900.0" in capsys.readouterr().err


def test_a_track_without_a_clock_has_none(other: Path) -> None:
    break_rule(other, "training clock")
    assert "clock" not in checked([Entry.read(other)], None, "non_record_16mb")


def test_without_the_data_nothing_is_judged(other: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        checked([Entry.read(other)], tmp_path / "absent", TRACK)


def test_the_log_is_the_text_that_the_run_printed(other: Path) -> None:
    (other / "train.log").write_bytes(b"step 1\n\x1b[31mred\xff\n")
    assert Entry.read(other).log() == "step 1\n\\x1b[31mred\ufffd\n".encode()
    (other / "train.log").unlink()
    (other / "train.log").symlink_to(other / "summary.json")
    with pytest.raises(InputError, match="is a link"):
        Entry.read(other).log()


def test_without_a_text_the_events_are_the_log(other: Path) -> None:
    (other / "train.log").unlink(missing_ok=True)
    log = (other / "log.jsonl").read_bytes()
    (other / "log.jsonl").write_bytes(b"a secret of mine\n" + log + b"[1]\n")
    lines = Entry.read(other).log().decode().splitlines()
    assert len(lines) == len(log.splitlines())
    assert not any("secret" in line for line in lines)
    assert any(line.startswith("step step:1 ") for line in lines)


@pytest.mark.parametrize(
    ("code", "printed", "words"),
    [
        (0, "all holds", None),
        (1, "C1 holds\nC2 BROKEN badly", "C2 BROKEN badly"),
        (1, "?", "its audit failed"),
        (2, "", "did not end: too short"),
    ],
)
def test_what_the_audit_finds_broken_is_refused(
    other: Path, monkeypatch: pytest.MonkeyPatch, code: int, printed: str, words: str | None
) -> None:
    def audit(command: list[str], *rest: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "evaluation", "audit"]
        return subprocess.CompletedProcess(command, code, printed, "error\ntoo short")

    monkeypatch.setattr("artifact.submission.accounts.finished", audit)
    if words is None:
        assert audited(Entry.read(other), None) == printed
    else:
        with pytest.raises(InputError, match=words):
            audited(Entry.read(other), None)


def entrants(folder: Path) -> list[int]:
    """Return the processes whose command names a folder, as an entrant's names its pipes."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(folder) in place.read_bytes():
                found.append(int(place.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_audit_with_all_that_it_began(
    run: Path, tmp_path: Path, number: int
) -> None:
    """SIGTERM killed the audit: its folder stayed, and the entrant's process computed on."""
    code = f"""
import signal
from pathlib import Path
from artifact.submission.accounts import audited
from artifact.submission.entry import Entry
from data.ending import ending
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
with ending():
    audited(Entry.read(Path({str(run)!r})), None)
"""
    command, clean = [sys.executable, "-c", code], clean_environment(TMPDIR=str(tmp_path))
    with subprocess.Popen(command, cwd=PROJECT, env=clean, stderr=subprocess.DEVNULL) as started:
        while not (begun := entrants(tmp_path)):
            assert started.poll() is None
            time.sleep(0.01)
        os.kill(begun[0], signal.SIGSTOP)  # busy, so that it does not see its judge's end
        started.send_signal(number)
    left = entrants(tmp_path)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert started.returncode == -signal.SIGINT and not left
    assert not [*tmp_path.iterdir()]


def test_no_run_is_one_line():
    with pytest.raises(InputError, match="name the runs to submit"):
        check_alike([])
