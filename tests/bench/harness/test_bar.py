"""A bar says of each part whether it was met, and never that one was which was not measured."""

import pytest

from bench.harness.bar import Bar, Result

RESULT = Result("x", 0.5, 0.4, 0.0, 0.0, {"compiled": 0.625}, {"ours": 2**30})


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar(ratios={"compiled": 1.25}), "met 1.25x compiled (1.25x)"),
        (Bar(ratios={"compiled": 1.26}), "missed 1.25x compiled (1.26x)"),
        (Bar(ratios={"absent": 1.0}), "missed nanx absent (1.00x)"),
        (Bar(of_floor=0.8), "met 80% of floor (80%)"),
        (Bar(of_floor=0.85), "missed 80% of floor (85%)"),
        (Bar(seconds=0.5), "met 500.00 ms (500.00 ms)"),
        (Bar(seconds=0.4), "missed 500.00 ms (400.00 ms)"),
        (Bar(memory=2**30), "met 1.00 GiB (1.00 GiB)"),
        (Bar(memory=2**29), "missed 1.00 GiB (0.50 GiB)"),
        (Bar(), ""),
        (
            Bar(ratios={"compiled": 2.0}, seconds=1.0),
            "missed 1.25x compiled (2.00x); met 500.00 ms (1000.00 ms)",
        ),
    ],
)
def test_verdict(bar, verdict):
    assert bar.verdict(RESULT) == verdict
