"""The harness times nothing that is wrong, times in turn, and says what bars were met."""

import time

import pytest
import torch

from bench.harness.bar import Bar, Result
from bench.harness.contest import Ceilings, Contest, report, run_contest, time_in_turn

CPU = torch.device("cpu")
CEILINGS = Ceilings(bandwidth=1e9, flops=1e12)


def contest(**changes) -> Contest:
    values = {
        "name": "sleep, forward",
        "ours": lambda: time.sleep(0.01),
        "peers": {"slow": lambda: time.sleep(0.03)},
        "check": lambda: None,
        "bytes_moved": 1000,
        "flops": 10**8,
    }
    return Contest(**(values | changes))


def test_what_is_wrong_has_no_time():
    calls = []

    def wrong() -> None:
        raise AssertionError("relative error 0.5")

    with pytest.raises(AssertionError, match=r"relative error 0\.5"):
        run_contest(contest(ours=lambda: calls.append(1), check=wrong), CEILINGS, CPU)
    assert calls == []


def test_time_floor_and_ratio():
    result = run_contest(contest(), CEILINGS, CPU)
    assert 0.01 <= result.seconds < 0.02  # busy machines wake a sleeper milliseconds late
    assert 2 < result.ratios["slow"] < 4
    assert result.floor == pytest.approx(1e-4)  # the products take longer than the bytes
    assert result.flops_per_second == pytest.approx(10**8 / result.seconds)


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    time_in_turn(calls, CPU, rounds=3)
    assert "".join(order[-6:]) == "ababab"


def test_what_a_run_launches_is_timed_on_the_host_beside_the_others():
    slow = lambda: time.sleep(0.04)  # noqa: E731
    result = run_contest(contest(launched={"by hand": slow}), CEILINGS, CPU)
    assert set(result.peers) == {"slow", "by hand"}
    assert 0.04 <= result.peers["by hand"] < 0.06


def made(name: str = "norm, forward", **peers: float) -> Result:
    return Result(name, 1e-3, 5e-4, 1e9, 0.0, peers)


def test_a_result_carries_its_bars_verdict():
    result = run_contest(contest(bar=Bar(ratios={"slow": 2.0, "none": 1.0})), CEILINGS, CPU)
    assert result.verdict.startswith("met ")
    assert "missed nanx none" in result.verdict
    assert report([result], CEILINGS).endswith(f"| {result.verdict} |")


def test_the_report_has_a_cell_for_every_peer():
    fast = Result("norm, forward", 1e-3, 5e-4, 1e9, 0.0, {"compiled": 2e-3}, {"compiled": 2**29})
    shown = report([fast, made("mlp, forward", eager=3e-3)], CEILINGS).splitlines()
    assert shown[-2].split("|")[-4:-1] == [" 2000.0 (2.00, 0.50) ", " - ", " - "]
    assert shown[-1].split("|")[-4:-1] == [" - ", " 3000.0 (3.00, -) ", " - "]
    assert "| 50% |" in shown[-1]
    widths = {line.count("|") for line in shown[2:]}
    assert len(widths) == 1
