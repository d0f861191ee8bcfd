"""How every program ends: an exit code, and one line where the user can put something right."""

import errno
import io
import subprocess
import sys
import time
from typing import get_args

import pytest
from cyclopts import App, Group

import command_line
import train
from errors import DivergedError, InputError, printable
from files import PROJECT
from settings import Settings
from settings.options import option, parse, preset_of_help


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
        (DivergedError("training diverged"), 1, "error: training diverged"),
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


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has", "2.50 GiB"),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.", "8 bytes"),
    ],
)
def test_pytorchs_lack_of_memory_is_one_line(words, size, capsys):
    assert ends(RuntimeError(words)) == 2
    said = capsys.readouterr().err
    assert said == f"error: out of memory: {size} asked for; take a smaller batch or network\n"


@pytest.mark.parametrize("fault", [ZeroDivisionError(), RuntimeError("no such stream")])
def test_a_fault_of_the_program_is_not_hidden(fault):
    with pytest.raises(type(fault)):
        ends(fault)


def test_a_word_after_a_switch_is_refused_in_words(capsys):
    assert command_line.run(train.app, ["--swarm", "maybe"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: unexpected 'maybe'; a switch is --NAME or --no-NAME, without a word after it\n"
    )


def test_options_are_made_once_and_keep_nothing_of_an_earlier_call(monkeypatch):
    given = parse(["--seed", "3", "--ve-layers", "1", "--swarm"])
    assert given == {"seed": "3", "ve_layers": ["1"], "swarm": True}
    monkeypatch.setattr(App, "assemble_argument_collection", None)
    for wrong in (["--seed"], ["--nothing"], ["--averaging", "twice"]):
        with pytest.raises(InputError):
            parse(["--iterations", "4", *wrong])
    assert parse([]) == {}
    assert parse(["--ve-layers", "2", "--no-swarm"]) == {"ve_layers": ["2"], "swarm": False}
    assert given == {"seed": "3", "ve_layers": ["1"], "swarm": True}


def test_help_shows_the_defaults_of_a_preset():
    assert preset_of_help(["train.py", "--preset", "tiny"]) == {}
    assert preset_of_help(["train.py", "--preset", "none", "--help"]) == {}
    shown = preset_of_help(["train.py", "--help", "--preset=tiny"])
    field = Settings.model_fields["num_layers"]
    hint = option(field, Group("g"), None, shown["num_layers"])
    assert str(shown["num_layers"]) != str(field.default)
    assert get_args(hint)[1].help.endswith(f"[{shown['num_layers']}]")


@pytest.mark.parametrize(
    "error",
    [InputError("x"), OSError(errno.EIO, "x"), RuntimeError("Tried to allocate 1 GiB of x")],
)
def test_a_host_s_first_rank_complains_before_the_others(error, capsys, monkeypatch):
    """torchrun ended the first rank before it could, if another had found the error sooner.

    A rank that was the only one to find it said nothing, nor did one that lacked memory.
    """
    monkeypatch.setattr(command_line, "FIRST_RANK_FIRST", 0.3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "9")
    began = time.monotonic()
    assert ends(error) == 2
    assert time.monotonic() - began >= 0.3
    assert capsys.readouterr().err.endswith(" (on rank 9)\n")
    monkeypatch.setattr(command_line, "FIRST_RANK_FIRST", 30.0)
    error.add_note("on rank 1 of 2")  # which has told the others
    assert ends(error) == 2
    assert capsys.readouterr().err.endswith(" (on rank 1 of 2)\n")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert ends(error) == 2
    assert time.monotonic() - began < 20


def test_a_reader_that_goes_away_costs_no_traceback():
    command = f"{sys.executable} -m bench --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr == ""


def test_what_the_encoding_of_stdout_lacks_is_escaped(monkeypatch):
    app = command_line.program("x", "Print.")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii", write_through=True))

    @app.default
    def speak() -> None:
        print("a\u00e9")

    assert command_line.run(app, []) == 0
    assert printed.getvalue() == b"a\\xe9\n"


def test_text_from_files_cannot_steer_a_terminal():
    assert printable("plain \u2581 \u00e9 text") == "plain \u2581 \u00e9 text"
    assert printable("\x1b[31m\x07\r\n\u202e\u2028\udcff") == (
        "\\x1b[31m\\x07\\r\\n\\u202e\\u2028\\udcff"
    )
