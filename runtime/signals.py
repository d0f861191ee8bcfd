"""SIGTERM, SIGINT and SIGHUP end a run at any moment, with one line that says how to go on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from runtime.launch import is_first_of_host

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 2.0  # seconds in which further signals change nothing: torchrun repeats a terminal's
PATIENCE = 10.0  # seconds that the main thread may take to react to a signal
LOOK = 0.1  # seconds between two looks at a process that has not reacted


class Interruption(BaseException):
    """Raised where a signal finds the program; by the training loop after it has saved a step."""

    def __init__(self, signal_number: int, step: int | None = None) -> None:
        super().__init__(f"signal {signal_number}")
        self.signal_number, self.step = signal_number, step


class Signals:
    """Turns signals into `Interruption` in its context, which may be entered again inside.

    A signal that comes ``GRACE`` seconds after the first ends the process at once. If the main
    thread waits inside a library and notices nothing, or has noticed but waits for a lost rank, a
    thread ends the process.

    Attributes:
        received: number of the first signal; 0: none came.
        last_words: returns the line that the process leaves.
        lost: returns whether another rank is lost, to be called repeatedly after a signal; None:
            this process is the only rank.
    """

    def __init__(self) -> None:
        self.received = 0
        self.last_words: Callable[[], str] = nothing_kept
        self.lost: Callable[[], bool] | None = None
        self._at = self._since = 0.0
        self._saving = False
        self._depth = self._deferring = 0
        self._said = threading.Lock()
        self._reacted = threading.Event()
        self._before: dict[int, Any] = {}
        self._wake_up = self._fd_before = -1

    def __enter__(self) -> "Signals":
        self._depth += 1
        if self._depth == 1:
            self.received, self.last_words, self.lost = 0, nothing_kept, None
            self._said, self._reacted = threading.Lock(), threading.Event()
            reader, self._wake_up = os.pipe()
            os.set_blocking(self._wake_up, False)
            watch = (reader, self._reacted)
            threading.Thread(target=self._watch, args=watch, name="signals", daemon=True).start()
            self._fd_before = signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)
            self._before = {each: signal.signal(each, self._note) for each in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._fd_before)
            os.close(self._wake_up)

    @contextmanager
    def deferred(self) -> Iterator["Signals"]:
        """Only record signals in this context, whose owner reads ``received``.

        Raises:
            Interruption: at the end of the context, if a signal came and the owner did not react;
                after a signal also if a collective fails, because another rank has left it.
        """
        self._deferring += 1
        try:
            yield self
        except RuntimeError as error:
            if self.lost is None or not self.received:
                raise
            raise Interruption(self.received) from error
        finally:
            self._deferring -= 1
            self._since = time.monotonic()
        if self.received and not self._deferring:
            self._reacted.set()
            raise Interruption(self.received)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Do not end the process for its slowness in this context, because a disk may be slow."""
        self._saving = True
        try:
            yield
        finally:
            self._saving, self._since = False, time.monotonic()

    def react(self) -> None:
        """Let nothing but a second signal end the process: its owner has seen that one came."""
        self._reacted.set()

    def leave(self, number: int) -> int:
        """Say the last words, once; return the exit code after a signal."""
        self._reacted.set()
        if self._said.acquire(blocking=False):
            with suppress(OSError):  # the terminal may be gone
                if words := self.last_words():
                    print(words, flush=True)
        return 128 + number

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received:
            if now - self._at > GRACE:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self._at = number, now
        if not self._deferring:
            raise Interruption(number)
        if self.lost is None:  # no other rank can keep the owner from reacting
            self._reacted.set()

    def _watch(self, reader: int, reacted: threading.Event) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                if byte[0] in STOPPING and self._is_stuck(reacted):
                    os._exit(self.leave(byte[0]))

    def _is_stuck(self, reacted: threading.Event) -> bool:
        """Return False when the process has reacted to a signal, True when it will not."""
        self._since = time.monotonic()
        while not reacted.wait(LOOK):
            lost = self.lost is None or self.lost()
            # In a deferred context a slow owner will still react, unless it waits for a lost rank.
            waited = not self._saving and time.monotonic() - self._since > PATIENCE
            if waited and (lost or not (self._deferring and self.received)):
                return True
        return False


def nothing_kept() -> str:
    """Return the last words of a process that has made no run folder yet, of a host's first."""
    return "interrupted; nothing was kept: start again" if is_first_of_host() else ""


# Handlers belong to the process, so there is one of these.
SIGNALS = Signals()
