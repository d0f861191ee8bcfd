"""Where the time from a process's start to its first step goes."""

import os
import time
from pathlib import Path


class Startup:
    """Seconds of each phase, the first one counted from when the process began.

    Attributes:
        seconds: by phase, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """The phase ends now; it began where the last one ended."""
        self.seconds[phase] = since_process_began() - self.total

    @property
    def total(self) -> float:
        """Seconds from the process's start to the end of the last phase."""
        return sum(self.seconds.values())


def since_process_began() -> float:
    """Seconds, to a hundredth; the interpreter's own start and its imports are in it (Linux)."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
    ticks = int(after_name.split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
