"""Find the coarseness of the grid with which an artifact fills its limit without exceeding it."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

COARSEST = 8.0
ENOUGH = 0.998  # of the limit: filling the rest is worth less than another attempt
ATTEMPTS = 6


class Sized(Protocol):
    """The result of an attempt: ``blob`` is the file, ``codes`` the number of its integers."""

    @property
    def blob(self) -> bytes: ...

    @property
    def codes(self) -> int: ...


Made = TypeVar("Made", bound=Sized)


def largest_that_fits(
    make: Callable[[float], Made], limit: int, finest: float
) -> tuple[float, Made]:
    """Return the factor on all steps that fills ``limit`` best, and its result.

    Doubling a step removes one bit per code, so one attempt predicts the next. Then regula falsi in
    the factor's logarithm approaches the limit from both sides. Two or three attempts suffice.

    Args:
        make: from a factor to a file.
        limit: bytes.
        finest: the least factor that still gains anything.

    Returns:
        The result with the largest file that fits, or the smallest if none fits.
    """
    low, high = math.log2(finest), math.log2(COARSEST)
    fitting: dict[float, Made] = {}
    over: dict[float, Made] = {}
    place = 0.0
    for _ in range(ATTEMPTS):
        made = make(2.0**place)
        (fitting if len(made.blob) <= limit else over)[place] = made
        done = ENOUGH * limit <= len(made.blob) <= limit
        guess = min(max(_next(fitting, over, limit), low), high)
        if done or guess in fitting or guess in over:
            break
        place = guess
    best = min(fitting) if fitting else max(over)
    return 2.0**best, (fitting | over)[best]


def _next(fitting: Mapping[float, Sized], over: Mapping[float, Sized], limit: int) -> float:
    """Return the factor, as a logarithm, whose size should be a little under ``limit``."""
    target = limit * (1 + ENOUGH) / 2
    if fitting and over:
        left, right = max(over), min(fitting)
        above, below = len(over[left].blob), len(fitting[right].blob)
        return left + (right - left) * (above - target) / (above - below)
    place = min(fitting) if fitting else max(over)
    made = fitting[place] if fitting else over[place]
    return place + (len(made.blob) - target) * 8 / max(made.codes, 1)
