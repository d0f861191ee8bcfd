"""The table of decision cycles, and what its exit code says."""

import pytest

from bench.swarm import decisions


@pytest.mark.parametrize(("bar", "code"), [((1e9, 1e9), 0), ((0.0, 1e9), 1), ((1e9, 0.0), 1)])
def test_a_warm_cycle_above_the_bar_is_1(bar, code, monkeypatch, capsys):
    monkeypatch.setattr(decisions, "BAR", bar)
    monkeypatch.setattr(decisions, "RUNS", 1)
    monkeypatch.setattr(decisions, "READ", (0, 1))
    monkeypatch.setattr(decisions, "KINDS", ("calm",))
    assert decisions.main() == code
    warm, cold = capsys.readouterr().out.splitlines()[-2:]
    assert warm.startswith("| 0 | 39 |")
    assert cold.startswith("| 1 | 39 |")


def test_percentiles_are_of_all_cycles():
    assert decisions.percentiles(range(1, 102)) == (51, 100)
