"""The factor that fills a limit, on files whose size is known as a formula."""

import math
from dataclasses import dataclass

import pytest

from artifact.quantisation.search import ATTEMPTS, COARSEST, ENOUGH, largest_that_fits

CODES = 800_000


@dataclass
class Made:
    """A million bytes at factor one; a doubled step takes 0.85 bit off a code, not the whole."""

    factor: float
    codes: int = CODES

    @property
    def blob(self) -> bytes:
        return bytes(int(1_000_000 - 0.85 * CODES / 8 * math.log2(self.factor)))


@pytest.mark.parametrize("limit", [850_000, 999_000, 1_000_500, 1_002_000, 1_150_000])
def test_the_limit_is_filled_in_few_attempts(limit: int) -> None:
    factors = []

    def make(factor: float) -> Made:
        factors.append(factor)
        return Made(factor)

    factor, made = largest_that_fits(make, limit, finest=0.1)
    assert ENOUGH * limit <= len(made.blob) <= limit
    assert made.factor == factor
    assert len(factors) <= 4 <= ATTEMPTS


def test_finer_than_the_finest_gains_nothing() -> None:
    factor, made = largest_that_fits(Made, 5_000_000, finest=0.5)
    assert factor == made.factor == 0.5


def test_the_smallest_is_kept_where_none_fits() -> None:
    factor, made = largest_that_fits(Made, 10_000, finest=0.5)
    assert factor == made.factor == COARSEST
