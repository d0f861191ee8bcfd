"""A ratio that fell is noticed; another device's numbers are not compared with."""

from dataclasses import replace

import pytest

from bench.harness.bar import Result
from bench.harness.baseline import baseline_name, losses, save
from errors import InputError


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


def test_a_device_names_its_file():
    assert baseline_name("NVIDIA H100 80GB HBM3") == "baseline-nvidia-h100-80gb-hbm3.json"
