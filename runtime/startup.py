"""Measures the phases from a process's start to its first step."""

import os
import time
from collections.abc import Callable
from pathlib import Path

NAMED = 0.5  # seconds
Done = Callable[[str], object]  # ends a phase


def unmeasured(phase: str) -> None:
    """End a phase whose seconds nobody wants."""


class Startup:
    """Seconds of each phase; the first one begins with the process.

    Attributes:
        seconds: by phase, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """End a phase, which began at the end of the last one; equal phases are added up."""
        took = since_process_began() - self.total
        self.seconds[phase] = self.seconds.get(phase, 0.0) + took

    @property
    def total(self) -> float:
        """Seconds from the process's start to the end of the last phase."""
        return sum(self.seconds.values())

    @property
    def line(self) -> str:
        """What a run says: the seconds of each phase that took at least ``NAMED``."""
        named = [f"{phase} {took:.1f}" for phase, took in self.seconds.items() if took >= NAMED]
        others = sum(took for took in self.seconds.values() if took < NAMED)
        return f"startup   {self.total:.1f} s: {', '.join([*named, f'others {others:.1f}'])}"

    def after(self, phase: str) -> float:
        """Return the seconds of all phases that began after a phase."""
        return sum([*self.seconds.values()][[*self.seconds].index(phase) + 1 :])


def since_process_began() -> float:
    """Return seconds, to a hundredth; they include the interpreter's start and imports (Linux)."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
    ticks = int(after_name.split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
