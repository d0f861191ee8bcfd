"""How every program ends: an exit code, and one line where the user can put something right."""

import errno
import subprocess
import sys

import pytest

import command_line
from errors import InputError, printable
from files import PROJECT


def ends(error: BaseException) -> int:
    app = command_line.program("x", "Fail.")

    @app.default
    def fail() -> None:
        raise error

    return command_line.run(app, [])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no\x1b[31m such\nfile"), 2, "error: no\\x1b[31m such\\nfile"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2, "error: /a: Permission"),
        (OSError("no space"), 2, "error: no space"),
        (MemoryError(), 2, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line(error, code, said, capsys):
    assert ends(error) == code
    complaint = capsys.readouterr().err
    assert complaint.startswith(said)
    assert complaint.count("\n") == 1 and complaint.endswith("\n")


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


def test_only_a_host_s_first_rank_complains(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ends(InputError("x")) == 2
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_costs_no_traceback():
    command = f"{sys.executable} -m bench --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr == ""


def test_text_from_files_cannot_steer_a_terminal():
    assert printable("plain \u2581 \u00e9 text") == "plain \u2581 \u00e9 text"
    assert printable("\x1b[31m\x07\r\n\u202e\u2028\udcff") == (
        "\\x1b[31m\\x07\\r\\n\\u202e\\u2028\\udcff"
    )
