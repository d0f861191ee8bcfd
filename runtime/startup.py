"""Measures the phases from a process's start to its first step."""

import os
import time
from pathlib import Path


class Startup:
    """Seconds of each phase; the first one begins with the process.

    Attributes:
        seconds: by phase, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """End a phase, which began at the end of the last one."""
        self.seconds[phase] = since_process_began() - self.total

    @property
    def total(self) -> float:
        """Seconds from the process's start to the end of the last phase."""
        return sum(self.seconds.values())


def since_process_began() -> float:
    """Return seconds, to a hundredth; they include the interpreter's start and imports (Linux)."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
    ticks = int(after_name.split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
