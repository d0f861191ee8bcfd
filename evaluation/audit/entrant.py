"""The entrant's process as the judge sees it: questions, and answers in numbers."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.tokenizer import ByteTable
from errors import InputError
from evaluation.audit import wire
from evaluation.audit.observing import Seen
from evaluation.subject import METHOD
from settings import Settings

STDERR = 2
PAUSE = 0.01  # seconds between two looks at a process that starts
WORKER = Path(__file__).with_name("worker.py")
Show = Callable[[float], None]


def unshown(done: float) -> None:
    """Take a fraction of a question that is done, and show nothing."""


def seen_of(numbers: Mapping[str, Any], found: wire.Arrays) -> Seen:
    """Return what was seen, of an answer; raise InputError if the answer is none of that."""
    fields: dict[str, Any] = {**numbers, **found}
    try:
        return Seen(**fields)
    except TypeError as error:
        raise InputError(f"the entrant's process: {error}") from None


def writer_of(pipe: Path, process: subprocess.Popen | None) -> BinaryIO:
    """Open a pipe as soon as the process reads it.

    A plain open waits in the kernel, also for a process that is dead, and for ever if a signal came
    just before it.

    Raises:
        InputError: the process ended.
    """
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads it yet
                raise
            if process and process.poll() is not None:
                code = process.returncode
                raise InputError(f"the entrant's process ended at its start ({code})") from None
            time.sleep(PAUSE)
        else:
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "wb")


class Entrant:
    """An artifact, scored by the code of whoever made it, in a process of its own.

    Args:
        answers, questions: pipes of the process, which opens the second one first.
        process: that answers; None: whoever made the pipes ends it.

    Attributes:
        backend, device, dtype: what computes there; of ``open``.
    """

    def __init__(
        self, answers: Path, questions: Path, process: subprocess.Popen | None = None
    ) -> None:
        self.writer: BinaryIO = writer_of(questions, process)
        self.reader: BinaryIO = answers.open("rb")
        self.process = process
        self.folder: tempfile.TemporaryDirectory | None = None
        self.backend = self.device = self.dtype = ""

    @classmethod
    def start(cls, code: Path) -> "Entrant":
        """Start the code, a project's folder or a packed file, in an empty folder."""
        folder = tempfile.TemporaryDirectory(prefix="audit_")
        questions, answers = (Path(folder.name) / name for name in ("questions", "answers"))
        for pipe in (questions, answers):
            os.mkfifo(pipe)
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(code.resolve()), str(questions), str(answers)],
            stdin=subprocess.DEVNULL,
            stdout=STDERR,
            cwd=folder.name,
            start_new_session=True,  # Ctrl-C interrupts the judge, who then ends this process
        )
        try:
            made = cls(answers, questions, process)
        except BaseException:  # Ctrl-C, before the process has opened its pipes
            process.kill()
            process.wait()
            folder.cleanup()
            raise
        made.folder = folder
        return made

    def open(self, artifact: Path, settings: Settings, table: ByteTable) -> None:
        """Rebuild the artifact's network.

        Args:
            artifact: the file.
            settings: of the method; the network's come from the artifact.
            table: bytes of each token, as the judge counts them.

        Raises:
            InputError: the code refuses it, or its vocabulary is not the table's.
        """
        values = settings.model_dump(mode="json", include=METHOD | {"device"})
        columns = {name: getattr(table, name) for name in ("base", "leading_space", "boundary")}
        words = {"artifact": str(artifact.resolve()), "settings": values}
        found, _ = self.ask("open", words, columns)
        if found["vocab_size"] != len(table.base):
            raise InputError(
                f"the artifact has {found['vocab_size']} tokens, the tokenizer {len(table.base)}"
            )
        self.backend, self.device, self.dtype = (
            str(found[name]) for name in ("backend", "device", "dtype")
        )

    def score(self, tokens: np.ndarray, stride: int, observe: bool = True) -> Seen:
        """Score tokens by windows.

        Args:
            tokens: of a split.
            stride: of the windows.
            observe: whether each score is recorded as it becomes final.
        """
        words = {"stride": stride, "observe": observe}
        return seen_of(*self.ask("score", words, {"tokens": tokens}))

    def adapt(
        self,
        tokens: np.ndarray,
        changes: Mapping[str, Any],
        poison: int = -1,
        show: Show = unshown,
        **further: Any,
    ) -> Seen:
        """Score tokens by test-time training.

        Args:
            tokens: of a split.
            changes: settings in place of the run's.
            poison: the update after which all that it changed is NaN; -1: none.
            show: called with the fraction of the targets that are scored.
            further: ``places`` and ``starts`` of contexts (P,) to score again, as
                `evaluation.audit.observing.Again` does; or ``contexts`` (R, T), ``scored`` and
                ``at_once`` for sums of probabilities after the first update.
        """
        arrays = {n: each for n, each in further.items() if isinstance(each, np.ndarray)}
        words = {n: each for n, each in further.items() if n not in arrays}
        words |= {"changes": dict(changes), "poison": poison}
        return seen_of(*self.ask("adapt", words, {"tokens": tokens, **arrays}, show))

    def again(self, inputs: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the nats (P, V) of all tokens after the places (P,) in rows of inputs (B, T)."""
        return self.ask("again", {}, {"inputs": inputs, "last": last})[1]["again"]

    def sums(self, contexts: np.ndarray, scored: int, at_once: int) -> np.ndarray:
        """Return `evaluation.audit.observing.sums_of_probabilities` of the windows' scores."""
        words = {"scored": scored, "at_once": at_once}
        return self.ask("sums", words, {"contexts": contexts})[1]["sums"]

    def seen(self) -> dict[str, Any]:
        """Return what the process did outside of its folders: `runtime.watching.seen`."""
        return self.ask("seen", {}, {})[0]

    def ask(
        self,
        name: str,
        words: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        show: Show = unshown,
    ) -> tuple[dict[str, Any], wire.Arrays]:
        """Ask, and return the answer, before which may come the fraction that is done.

        Raises:
            InputError: the entrant's code fails.
        """
        try:
            wire.send(self.writer, {"ask": name, **words}, arrays)
            answer, found = wire.receive(self.reader)
            while "done" in answer:
                show(min(max(float(answer["done"]), 0.0), 1.0))
                answer, found = wire.receive(self.reader)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"the entrant's process ends at {name!r} ({error})") from None
        if "error" in answer:
            raise InputError(f"the entrant's code: {answer['error']}")
        return answer, found

    def close(self) -> None:
        """End the process, whatever it computes."""
        if self.process:
            self.process.kill()
            self.process.wait(timeout=60)
        with suppress(BrokenPipeError):  # half a question was not read
            self.writer.close()
        self.reader.close()
        if self.folder:
            self.folder.cleanup()
