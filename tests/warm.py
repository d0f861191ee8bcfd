"""Commands started as forks of a process that has imported PyTorch and matplotlib.

An interpreter's own start with both takes six seconds of CPU on a slow machine, a fork none. What a
command imports of this project it imports itself, in its own environment, folder and streams, and
it ends as an interpreter would. With PICTURES=empty its pictures are empty files: drawing takes a
second. What is read before any code runs, or by those imports (PYTHONUTF8, PYTHONHASHSEED,
MPLBACKEND), needs ``subprocess``.
"""

import atexit
import gc
import inspect
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from files import PROJECT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])
ROOT = PROJECT  # of this copy; the name outlives what ``_forget_project`` forgets
STREAMS = ("stdout", "stderr")


class Started:
    """A command that runs: as ``subprocess.Popen``, its streams in files.

    Attributes:
        pid: of the process.
        stdout, stderr: what it has printed so far.
    """

    def __init__(
        self, arguments: Sequence[object], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.arguments = list(map(str, arguments))
        self._streams = tempfile.TemporaryDirectory()
        described = (self.arguments, dict(environment), str(folder), self._streams.name)
        self._process = FORKS.Process(target=_become, args=described)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def stdout(self) -> str:
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        return self._printed("stderr")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = 300) -> int:
        """Return its exit code, negative where a signal ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs; it is killed.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.stdout, self.stderr)
        return self._process.exitcode

    def _printed(self, stream: str) -> str:
        path = Path(self._streams.name) / stream
        return path.read_text(errors="replace") if path.exists() else ""


def start(
    *arguments: object, environment: Mapping[str, str] | None = None, folder: Path = PROJECT
) -> Started:
    """Start ``python ARGUMENTS``: a script's path, ``-m`` and a module, or ``-c`` and a program.

    Args:
        environment: all of it; this process's unless given.
    """
    return Started(arguments, os.environ if environment is None else environment, folder)


def run(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    folder: Path = PROJECT,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` to its end, as ``start``; raise as ``Started.wait``."""
    started = start(*arguments, environment=environment, folder=folder)
    code = started.wait(timeout)
    return subprocess.CompletedProcess(started.arguments, code, started.stdout, started.stderr)


def _become(arguments: list[str], environment: dict[str, str], folder: str, streams: str) -> None:
    """Turn this fork into the command."""
    for number, stream in enumerate(STREAMS, 1):
        file = os.open(Path(streams) / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    _settle(environment, folder)
    sys.exit(_status(arguments))


class Worker(subprocess.Popen):
    """What torchrun starts: a fork of itself, which has imported PyTorch."""

    def _execute_child(self, *given: object) -> None:
        started = inspect.signature(super()._execute_child).bind(*given)  # pyright: ignore[reportAttributeAccessIssue]
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            try:
                status = self._work(**started.arguments)
            except BaseException:
                traceback.print_exc()
                status = 1
            os._exit(status)

    def _work(
        self, args: Sequence[str], env: dict[str, str], c2pwrite: int, errwrite: int, **_: object
    ) -> int:
        """Turn this fork into the worker, and return its exit code."""
        os.setsid()
        for number, file in enumerate((c2pwrite, errwrite), 1):
            if file != -1:
                os.dup2(file, number)
        gc.freeze()  # what torchrun opened is closed once, here
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        atexit._clear()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        _settle(env, str(Path.cwd()))
        assert args[1] == "-u"
        return _status([*args[2:]])


def _settle(environment: Mapping[str, str], folder: str) -> None:
    """Have the streams, the environment and the folder of the command."""
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as it runs
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    interpret(environment.get("TRITON_INTERPRET"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if environment.get("PICTURES") == "empty":
        Figure.savefig = lambda self, fname, **_: None
    if "OMP_NUM_THREADS" in environment:  # PyTorch, imported before, read another
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


def _status(arguments: list[str]) -> int:
    """Run the command, and return the exit code that an interpreter would have given."""
    try:
        _execute(arguments)
        code = 0
    except SystemExit as ended:
        code = _code_of(ended)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - threads are waited for
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code


def _execute(arguments: list[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        _forget_project("")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        _forget_project(str(Path.cwd()))
        sys.argv = rest
        if rest[0] == "torch.distributed.run":
            from torch.distributed.elastic.multiprocessing.subprocess_handler import (
                subprocess_handler,
            )

            subprocess_handler.Popen = Worker
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        _forget_project(str(Path(first).resolve().parent))
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


def interpret(given: str | None) -> None:
    """Have this TRITON_INTERPRET, and Triton imported anew if it reads another."""
    if os.environ.get("TRITON_INTERPRET") == given:
        return
    os.environ.pop("TRITON_INTERPRET", None)
    if given is not None:
        os.environ["TRITON_INTERPRET"] = given
    for name in [*sys.modules]:
        if name.split(".")[0] == "triton" and not name.startswith("triton._C"):
            del sys.modules[name]


def _forget_project(first: str) -> None:
    """Let imports begin at this folder: the command may be of a copy of the project."""
    start = f"{ROOT}{os.sep}"
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or os.sep
        if file.startswith(start) and ".venv" not in file and name != "__main__":
            del sys.modules[name]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    sys.path = [first, *filter(None, given), *kept]


def _code_of(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
        return 1
    return ended.code or 0
