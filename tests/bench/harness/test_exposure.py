"""What is exposed of collectives, of traces of two ranks made by hand."""

from dataclasses import replace

import pytest

from bench.harness.exposure import Exposure, exposures, seen
from bench.harness.figures import Figure
from bench.harness.timeline import Event
from bench.step.parallel import exposed

REDUCE, GATHER = "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "ncclDevKernel_AllGather_RING_LL"


def rank(late: float) -> list[Event]:
    """Two whole steps after the end of one; the reduction begins ``late`` and ends for all."""
    events = []
    for start in (0.0, 100.0, 200.0):
        for name, begin, end in (
            ("backward", 3, 40 + late),
            (REDUCE, 20 + late, 50),
            (GATHER, 60, 70),
            ("Memcpy DtoH (Device -> Pinned)", 80, 81),
        ):
            events.append(Event(name, start + begin, start + end, on_device=True))
    return sorted(events, key=lambda event: event.begin)


def test_a_collectives_shortest_time_is_the_transfer_and_the_rest_waiting():
    ranks = [seen(rank(0.0)), seen(rank(8.0))]
    assert [each.work for each in ranks] == [37, 45]
    assert exposures(ranks) == {
        # 22 us from 28 on, of which the late rank's work hides 20; the other's 10 are alone.
        "ReduceScatter": Exposure(transfer=22, exposed=2, waiting=4, alone=6),
        "AllGather": Exposure(transfer=10, exposed=10, waiting=0, alone=10),
    }


def test_ranks_of_other_collectives_are_refused():
    one = seen(rank(0.0))
    with pytest.raises(ValueError, match="2 orders"):
        exposures([one, replace(one, collectives=one.collectives[1:])])


def test_the_table_says_what_is_exposed_by_kind_and_how_far_ranks_differ():
    figures = {f.what: f.value for f in exposed([seen(rank(0.0)), seen(rank(8.0))])}
    assert figures["AllGather: transfer"] == figures["AllGather: exposed transfer"] == 10
    assert figures["ReduceScatter: exposed transfer"] == 2
    assert figures["all collectives: alone, waiting included"] == 16
    assert figures["slowest GPU's work over the mean's"] == pytest.approx(45 / 41)
    assert exposed([replace(seen(rank(0.0)), collectives=[])])[0] == Figure(
        "all collectives: transfer", 0.0, "us"
    )
