"""Levers reach the device in order, decisions stand over the schedule, wrong names are refused."""

import pytest
import torch

from kernels.common.pinned import BLOCKS
from settings.load import load_settings
from training.device_levers import DeviceLevers


def device_levers() -> DeviceLevers:
    return DeviceLevers(load_settings([], {}), torch.device("cpu"))


def test_a_pushed_lever_is_seen_through_views_taken_before():
    levers = device_levers()
    qat = levers["qat"]
    levers.schedule(qat=1.0, clip=0.3)
    assert qat.item() == 0.0
    levers.push()
    assert qat.item() == 1.0
    assert levers["clip"].item() == pytest.approx(0.3)


def test_blocks_in_flight_wrap_around():
    levers = device_levers()
    for value in range(3 * BLOCKS):
        levers.schedule(mtp_weight=float(value))
        levers.push()
        assert levers["mtp_weight"].item() == value


def test_a_decision_stands_over_what_is_scheduled_after_it_and_over_nothing_else():
    levers = device_levers()
    levers.schedule(clip=0.3, mtp_weight=0.1)
    levers.decide(clip=0.15)
    levers.schedule(clip=0.3, mtp_weight=0.2)
    assert (levers.value("clip"), levers.value("mtp_weight")) == (0.15, 0.2)
    levers.push()
    assert levers["clip"].item() == pytest.approx(0.15)
    assert levers["mtp_weight"].item() == pytest.approx(0.2)


@pytest.mark.parametrize("how", ["schedule", "decide"])
def test_an_unknown_lever_is_refused(how):
    with pytest.raises(KeyError, match="mtp_weight"):
        getattr(device_levers(), how)(mpt_weight=1.0)
