"""The progress line of a run: live on a terminal, a plain line every few seconds elsewhere."""

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL = 10.0
LIVE_INTERVAL = 0.2


class Progress:
    """Shows a run's progress; a context manager, so that the terminal is always restored.

    On a terminal one line is kept up to date. Elsewhere a line is printed and flushed every
    ``PLAIN_INTERVAL`` seconds, and at once for rare events: a new bpb, a new phase, the end.
    No thread draws it, so it takes host time only within these calls. Where nothing can be
    written, as after the terminal has closed, nothing is shown any more.

    Args:
        total_seconds: the budget of training time, if the clock ends the run.
        total_steps: the number of steps, if their count ends it.
        enabled: False on all ranks but one: every call does nothing.
        heard: gets each line that stays.
    """

    def __init__(
        self,
        total_seconds: float | None,
        total_steps: int | None,
        enabled: bool = True,
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self._heard = heard
        self._total_seconds = total_seconds
        self._total_steps = total_steps
        self._enabled = enabled
        self._live = _live_line() if enabled else None
        self._interval = LIVE_INTERVAL if self._live else PLAIN_INTERVAL
        self._pending = ""
        self._shown_at = -math.inf
        self._shown_phase = ""
        self._parts: list[str] = []
        self._bpb: float | None = None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Show what is left, and restore the terminal."""
        self._show()
        with self._written():
            if self._live:
                self._live.stop()

    def update(
        self,
        step: int,
        loss: float,
        tokens_per_second: float,
        seconds_left: float | None = None,
        bpb: float | None = None,
    ) -> None:
        """Show a step; ``bpb`` is the latest measurement."""
        if not self._enabled:
            return
        if self._shown_phase:  # its end, if that was not due
            self._show()
        self._parts = [
            self._percent(step, seconds_left),
            f"step {step}/{self._total_steps}" if self._total_steps else f"step {step}",
            f"loss {loss:.4f}",
            f"{_short(tokens_per_second)} tok/s",
            "" if seconds_left is None else f"{_clock(seconds_left)} left",
            "" if bpb is None else f"bpb {bpb:.4f}",
        ]
        self._pending = "  ".join(filter(None, self._parts))
        self._shown_phase = ""
        if bpb != self._bpb or self._is_due():
            self._bpb = bpb
            self._show()

    def ended(self) -> None:
        """Show that the steps are over: the last one at 100 %, also if the clock ended them."""
        whole = f"{1:4.0%}"
        if self._parts and self._parts[0] not in ("", whole):
            _, step, loss, rate, _, bpb = self._parts
            self._pending = "  ".join(filter(None, (whole, step, loss, rate, bpb)))
        self._show()

    def phase(self, text: str) -> None:
        """Show a phase without steps, for example "warm-up" or "evaluating 34 %".

        A phase that differs from the one before in digits only is shown as often as steps are,
        and the last of them always.
        """
        if not self._enabled:
            return
        name = re.sub(r"[\d.,]+", "", text)
        if name != self._shown_phase:
            self._show()
        self._pending = text
        if name != self._shown_phase or self._is_due():
            self._show()
        self._shown_phase = name

    def line(self, text: str) -> None:
        """Print a line that stays, above the line that changes."""
        if self._heard:
            self._heard(text)
        with self._written():
            if self._live:
                console = self._live.console
                # A path that is wider than the terminal stays whole, to be copied.
                cut = max(map(len, text.split()), default=0) > console.width
                console.print(text, highlight=False, markup=False, soft_wrap=cut)
            elif self._enabled:
                print(text, flush=True)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Write in this context; after an error show nothing more."""
        try:
            yield
        except OSError:
            self._enabled, self._live = False, None
            discard_output()

    def _percent(self, step: int, seconds_left: float | None) -> str:
        if self._total_seconds and seconds_left is not None:
            return f"{1 - seconds_left / self._total_seconds:4.0%}"
        return f"{step / self._total_steps:4.0%}" if self._total_steps else ""

    def _is_due(self) -> bool:
        return time.monotonic() - self._shown_at >= self._interval

    def _show(self) -> None:
        if not self._pending:
            return
        with self._written():
            if self._live:
                line = Text(self._pending, no_wrap=True, overflow="ellipsis")
                self._live.update(line, refresh=True)
            else:
                print(self._pending, flush=True)
        self._pending = ""
        self._shown_at = time.monotonic()


def discard_output() -> None:
    """Let what is printed vanish from now on, because nothing reads it or no disk has room."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _live_line() -> Live | None:
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return Live(console=console, auto_refresh=False)


def _short(rate: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.2f}{unit}"
    return f"{rate:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
