"""A figure says whether its bar was met."""

import math

from bench.harness.figures import Figure, figures_table, missed


def test_bars_on_either_side():
    assert Figure("gap", 99.0, "us", most=100).met
    assert not Figure("gap", 101.0, "us", most=100).met
    assert not Figure("speed-up", 0.92, "", least=0.93).met
    assert not Figure("gap", math.nan, "us", most=100).met
    assert Figure("anything", 1e9, "us").met


def test_those_that_miss_their_bars():
    met, not_met = Figure("gap", 99.0, "us", most=100), Figure("gap", 101.0, "us", most=100)
    assert missed([met, not_met, Figure("busy", 54.5, "ms")]) == [not_met.row()]


def test_a_row_says_what_was_missed():
    table = figures_table([Figure("gap", 101.0, "us", most=100), Figure("busy", 54.5, "ms")])
    assert table.splitlines()[2:] == [
        "| gap | 101 us | missed (<= 100) |",
        "| busy | 54.5 ms | - |",
    ]
