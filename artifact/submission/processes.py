"""Processes of a submission: of its script, as a stranger would start it, and of an audit."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from artifact.submission.code_size import SCRIPT
from errors import InputError

SECONDS = 900
ENDING = 60.0  # seconds that a command has to end what it has begun
PAUSE = 0.05  # seconds between two looks at what runs


def finished(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return its exit code and what it printed.

    If a signal ends the wait, SIGTERM ends the command, and it can remove what it has begun.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # of Ctrl-C it would hear twice
    )
    try:
        out, err = process.communicate()
    except BaseException:
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Process:
    """The script, started from ``/`` without the user's environment; the context's end kills it.

    What it prints and its temporary files lie in ``folder``.

    Args:
        folder: of the script.
        name: of this process, other than those of its folder.
        arguments: options of the script.
        fine: whether an exit code of 1 is one.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        arguments: Sequence[str],
        fine: Callable[[], bool] = lambda: False,
    ) -> None:
        self._fine, self._until = fine, time.monotonic() + SECONDS
        self._place = folder / f"process_{name}"
        self._place.mkdir()
        command = [sys.executable, "-E", "-s", "-P", str(folder / SCRIPT), *arguments]
        clean = {"PATH": os.defpath, "HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
        clean["TMPDIR"] = str(self._place)  # a killed script leaves its temporary folder
        # Two runs share the cores: a thread that waits for a core keeps its run's others waiting.
        clean["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))
        with (self._place / "out").open("wb") as out, (self._place / "err").open("wb") as err:
            self._process = subprocess.Popen(command, cwd="/", env=clean, stdout=out, stderr=err)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def printed(self, others: Sequence["Process"] = ()) -> str:
        """Return what the script prints, once it has ended.

        Args:
            others: processes that run meanwhile.

        Raises:
            InputError: it fails or takes too long, or one of the others does before it ends.
        """
        while not self.ended():
            for each in others:
                each.ended()
            time.sleep(PAUSE)
        return self._read("out")

    def ended(self) -> bool:
        """Return whether the script has ended. Raises InputError if it failed or takes too long."""
        code = self._process.poll()
        if code is None and time.monotonic() > self._until:
            raise InputError(f"the bundled script does not end within {SECONDS} s")
        if code and not (code == 1 and self._fine()):
            last = (self._read("err").strip().splitlines() or ["no word"])[-1]
            raise InputError(f"the bundled script does not start: {last}")
        return code is not None

    def _read(self, stream: str) -> str:
        return (self._place / stream).read_text(encoding="utf-8", errors="backslashreplace")
