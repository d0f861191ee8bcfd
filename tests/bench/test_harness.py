"""The harness times nothing that is wrong, times in turn, and notices what fell behind."""

import time
from dataclasses import replace

import pytest
import torch

from bench.harness import Ceilings, Contest, Result, losses, report, run_contest, save, time_in_turn
from errors import InputError

CPU = torch.device("cpu")
CEILINGS = Ceilings(bandwidth=1e9, flops=1e12)


def contest(**changes) -> Contest:
    values = {
        "name": "sleep, forward",
        "ours": lambda: time.sleep(0.001),
        "peers": {"slow": lambda: time.sleep(0.003)},
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
    assert 0.001 <= result.seconds < 0.002
    assert 2 < result.ratios["slow"] < 4
    assert result.floor == pytest.approx(1e-4)  # the products take longer than the bytes
    assert result.flops_per_second == pytest.approx(10**8 / result.seconds)


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    time_in_turn(calls, CPU, rounds=3)
    assert "".join(order[-6:]) == "ababab"


def made(name: str = "norm, forward", **peers: float) -> Result:
    return Result(name, 1e-3, 5e-4, 1e9, 0.0, peers)


def test_a_ratio_that_fell_by_more_than_5_percent_is_reported(tmp_path):
    save(tmp_path / "base.json", [made(compiled=2e-3, eager=4e-3)], {"device": "d"})
    assert losses(tmp_path / "base.json", [made(compiled=1.92e-3, eager=3.9e-3)], "d") == []
    fallen = losses(tmp_path / "base.json", [made(compiled=1.88e-3, eager=4e-3)], "d")
    assert fallen == ["norm, forward: 1.880 of compiled, was 2.000"]
    # The machine as a whole being slower is no loss; a contest that the baseline lacks is none.
    slower = replace(made(compiled=4e-3, eager=8e-3), seconds=2e-3)
    assert losses(tmp_path / "base.json", [slower, made("new", compiled=1e-9)], "d") == []


def test_another_devices_baseline_and_no_baseline_are_refused(tmp_path):
    save(tmp_path / "base.json", [made(compiled=2e-3)], {"device": "d"})
    with pytest.raises(InputError, match="measured on d, this is e"):
        losses(tmp_path / "base.json", [made(compiled=2e-3)], "e")
    with pytest.raises(InputError, match="no baseline"):
        losses(tmp_path / "absent.json", [], "d")


def test_the_report_has_a_cell_for_every_peer():
    shown = report([made(compiled=2e-3), made("mlp, forward", eager=3e-3)], CEILINGS).splitlines()
    assert shown[-2].split("|")[-3:-1] == [" 2000.0 (2.00) ", " - "]
    assert shown[-1].split("|")[-3:-1] == [" - ", " 3000.0 (3.00) "]
    assert "| 50% |" in shown[-1]
