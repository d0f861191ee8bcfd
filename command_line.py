"""The command line of every program: options, ``--help``, one line for an error, exit codes."""

import difflib
import inspect
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnusedCliTokensError
from cyclopts.argument import ArgumentCollection
from cyclopts.utils import UNSET

from errors import InputError, printable

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
ASKED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)
LONGEST = 2000  # characters of an error that quotes a file
FIRST_RANK_FIRST = 10.0  # seconds in which the host's first rank may name an error that all have
HELP = {"--help", "-h"}
SPELLED: dict[str, str] = {}  # what the user types for a program's name, if it is not that name


class Program(App):
    """A program that makes its options once: all settings take 0.08 s, and each call made them."""

    def assemble_argument_collection(self, **given: Any) -> ArgumentCollection:
        """Return the options; without ``given`` always these, and nothing is given to them yet."""
        if given:
            return super().assemble_argument_collection(**given)
        if not hasattr(self, "made"):
            self.made = super().assemble_argument_collection()
        for argument in self.made:
            argument.tokens, argument.value = [], UNSET
            argument._mark_converted_override = False
        return self.made


def program(name: str, about: str, usage: str | None = None) -> App:
    """Return a program without commands yet.

    Its functions are its commands: keyword parameters are options, parameters before a ``/`` are
    positional, and help comes from docstrings.

    Args:
        name: as it is started, for the usage line.
        about: the text of ``--help``; indented lines stay as they are.
        usage: the usage line of ``--help``; None: made from the options, which takes 0.1 s if
            these are all settings.
    """
    return Program(
        name=spelled(name),
        usage=usage and spelled(usage),
        help=paragraphs(about),
        help_format="plaintext",
        version_flags=(),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=(), consume_multiple=True),
        config=whole,
    )


def whole(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Refuse a number with a point where a whole one is meant: cyclopts would round it.

    Args:
        app, commands: as cyclopts calls it.
        arguments: of the command, not converted yet.

    Raises:
        InputError: there is such a number.
    """
    for argument in arguments:
        if int in (argument.hint, *get_args(argument.hint)):
            for token in argument.tokens:
                if "." in token.value:
                    raise InputError(f"{token.keyword} {token.value}: give a whole number")


def optional(module: str, option: str) -> Any:
    """Return a module that a contest's file leaves out. Raises InputError there."""
    if find_spec(module) is None:
        raise InputError(f"this file has no {module}; leave {option} out")
    return import_module(module)


def run(app: App, arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name.

    An error that the user can put right is one line on stderr, its control characters escaped; of
    several ranks, the host's first prints it. Only a fault of the program ends in a traceback.

    Args:
        app: of `program`.
        arguments: without the program's name.

    Returns:
        the exit code: the command's, 0 for None; 2 for bad input, a file that cannot be read or
        written, or too little memory; 1 after training diverged; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks is escaped
    try:
        return call(app, arguments) or 0
    except (InputError, MemoryError) as error:
        refuse(error)
        return getattr(error, "code", BAD_INPUT)
    except BrokenPipeError:
        # Nobody reads what the program prints. Python flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        refuse(error)
        return BAD_INPUT
    except RuntimeError as error:
        asked = ASKED.search(str(error))  # by PyTorch, whose allocators have no MemoryError
        if not asked:
            raise
        lack = MemoryError(f"{asked[1]} asked for; take a smaller batch or network")
        lack.__notes__ = getattr(error, "__notes__", [])
        refuse(lack)
        return BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def spelled(text: str) -> str:
    """Return a text with the names of programs as the user types them."""
    for name, typed in SPELLED.items():
        text = re.sub(rf"(?<![\w/]){re.escape(name)}(?=$|[\s`])", typed, text)
    return text


def said(error: Exception) -> str:
    """Return what an error that the user can put right says."""
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def refuse(error: Exception) -> None:
    """Print an error that the user can put right; its notes say which rank has it.

    Without notes all ranks may have it. The host's first prints it and ends, whereupon torchrun
    ends the others. A rank that is left after a while prints it, too.
    """
    notes = getattr(error, "__notes__", [])
    if not (is_first() or notes):
        time.sleep(FIRST_RANK_FIRST)
        notes = [f"on rank {os.environ.get('RANK', '')}".rstrip()]
    complain(f"error: {said(error)}", notes)


def is_first() -> bool:
    """Return whether this process is the first rank of its host, or the only one."""
    rank = os.environ.get("LOCAL_RANK", "")
    return not (rank.isdecimal() and int(rank))


def complain(line: str, notes: Sequence[str] = ()) -> None:
    """Print a line on stderr, on the host's first rank only, or with notes on any rank."""
    first = is_first()
    if first or notes:
        line = printable(spelled(line if first else f"{line} ({', '.join(notes)})"))
        print(line if len(line) <= LONGEST else f"{line[:LONGEST]}...", file=sys.stderr)


def end(main: Callable[[Sequence[str]], int]) -> None:
    """Run a program's main function and end the process, at once where it has not succeeded.

    Nothing that a failed program has begun is awaited: other ranks may never come.
    """
    try:
        code = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = 1
    if code:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def call(app: App, arguments: Sequence[str]) -> Any:
    """Return what the command that ``arguments`` name returns; None after ``--help``.

    Raises:
        InputError: an option or command is unknown, or lacks its value; one line.
    """
    if not arguments and app.default_command is None:
        raise InputError(f"name a command: {', '.join(commands(app))}")
    if app.default_command and HELP.intersection(arguments):
        # Parsing would resolve every option once more before the help does.
        app.help_print([each for each in arguments if each not in HELP])
        return None
    if app.default_command and arguments:
        suspect(arguments[0], commands(app))
    try:
        return app(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise InputError(describe(error)) from None


def suspect(first: str, known: Sequence[str]) -> None:
    """Refuse a first word that is nearly a command, and no file for the default one."""
    near = difflib.get_close_matches(first, known, n=1)
    if near and first not in known and not Path(first).exists():
        raise InputError(f"no command and no file {first!r}; did you mean {near[0]}?")


def describe(error: CycloptsError) -> str:
    """Return what is wrong with a command line as one line."""
    if isinstance(error, UnknownCommandError) and error.app and error.unused_tokens:
        # Its own text would import every command.
        name, known = error.unused_tokens[0], commands(error.app)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"no command {name!r}; there are: {', '.join(known)}{hint}"
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(repr(token) for token in error.unused_tokens or ())
        return f"unexpected {extra}; a switch is --NAME or --no-NAME, without a word after it"
    error.verbose = False
    text = " ".join(str(error).split())
    return text[:1].lower() + text[1:]


def commands(app: App) -> list[str]:
    """Return the names of a program's commands; imports none of them."""
    return [name for name in app if not name.startswith("-")]


def paragraphs(text: str) -> str:
    """Return a docstring with each paragraph in one line, so that the terminal's width wraps it."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else " ".join(part.split()) for part in parts)
