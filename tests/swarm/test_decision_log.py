"""The log: whole, off the hot path, cut where a resumed run goes on."""

import json
import math
import os
import threading

import pytest

from errors import InputError
from swarm.decision_log import NAME, cycle_record, read
from swarm.levers import limits
from swarm.mesh import Mesh
from swarm.steering import Steering
from tests.swarm.small import LEVERS, SETTINGS, Scripted, steering


def run(swarm: Steering, cycles: range) -> list:
    found = []
    for number in cycles:
        for place in range(8):
            swarm.add(2.0 + 0.01 * (place % 3) + (number % 7 == 6) * 0.4, 0.3)
        found.append(swarm.cycle(80 * number, number / 20, 1.0))
    return found


def test_every_cycle_is_in_the_log_with_all_it_saw_and_decided_and_its_cost(tmp_path):
    swarm = steering()
    swarm.log_to(tmp_path / NAME)
    cycles = run(swarm, range(1, 20))
    assert swarm.close() is None
    start, *records = read(tmp_path / NAME)
    assert start["kind"] == "start"
    assert start["agents"]["health"]["clip"] == 0.3
    assert start["rules"] == {"alone": 0.85, "objection": 0.6, "withdrawn": 0.3}
    costs = [record.pop("microseconds") for record in records]
    assert costs == swarm.microseconds
    assert records == [cycle_record(place + 1, cycle) for place, cycle in enumerate(cycles)]
    assert any(record["proposals"] and record["votes"] for record in records)


def test_lines_are_strict_json(tmp_path):
    swarm = steering()
    swarm.log_to(tmp_path / NAME)
    swarm.add(float("nan"), float("inf"))
    run(swarm, range(1, 3))
    swarm.close()
    for line in (tmp_path / NAME).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_agent_that_says_what_is_no_number_does_not_end_the_log(tmp_path):
    agents = Scripted("a", ("clip", math.nan, 0.9)), Scripted("b", clip=math.inf)
    swarm = Steering(Mesh(agents, limits(SETTINGS)), LEVERS, 80)
    swarm.log_to(tmp_path / NAME)
    run(swarm, range(1, 3))
    swarm.close()
    _, *records = read(tmp_path / NAME)
    assert [record["proposals"][0]["value"] for record in records] == ["NaN", "NaN"]
    assert [record["votes"] for record in records] == [[[0.0, "Infinity"]]] * 2


def test_a_disk_that_hangs_does_not_hold_up_a_cycle(tmp_path):
    """A pipe nobody reads stands for it: opening it to write waits for ever."""
    swarm = steering()
    swarm.log_to(tmp_path / NAME)
    swarm.close()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert swarm._log is not None
    swarm._log._path = pipe
    swarm._log._thread = threading.Thread(target=swarm._log._write, daemon=True)
    swarm._log._thread.start()
    assert len(run(swarm, range(1, 50))) == 49
    assert swarm._log._thread.is_alive()
    with pipe.open() as reader:
        threading.Thread(target=swarm.close, daemon=True).start()
        assert len(reader.readlines()) == 49


def test_a_full_disk_costs_the_log_and_not_the_run(tmp_path):
    swarm = steering()
    swarm.log_to(tmp_path / NAME)
    swarm.close()
    assert swarm._log is not None
    swarm._log._path = tmp_path / "gone" / NAME
    swarm._log._thread = threading.Thread(target=swarm._log._write, daemon=True)
    swarm._log._thread.start()
    assert len(run(swarm, range(1, 50))) == 49
    assert isinstance(swarm.close(), OSError)


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    first, second = steering(), steering()
    first.log_to(tmp_path / NAME)
    run(first, range(1, 6))
    state = first.state()
    run(first, range(6, 10))
    first.close()
    second.load(state)
    second.log_to(tmp_path / NAME)
    run(second, range(6, 8))
    second.close()
    records = list(read(tmp_path / NAME))
    assert [record["cycle"] for record in records] == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    assert [place for place, r in enumerate(records) if r["kind"] == "start"] == [0, 6]


def test_a_line_that_a_kill_left_torn_is_dropped(tmp_path):
    swarm = steering()
    swarm.log_to(tmp_path / NAME)
    run(swarm, range(1, 4))
    swarm.close()
    with (tmp_path / NAME).open("a") as file:
        file.write('{"kind": "cycle", "cyc')
    assert [record["cycle"] for record in read(tmp_path / NAME)] == [0, 1, 2, 3]
    swarm.log_to(tmp_path / NAME)
    swarm.close()
    assert (tmp_path / NAME).read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense\n", "line 1: no record of a decision log"),
        (b'{"kind": "step", "cycle": 1}\n', "line 1: no record"),
        (b'{"kind": "cycle"}\n', "line 1: no record"),
        (b"[1]\n", "line 1: no record"),
        (b'{"kind": "cycle", "cycle": 1}\n', "snapshot: Field required"),
        (b'{"kind": [], "cycle": 1}\n', "line 1: no record"),
        (b"[" * 100_000 + b"\n", "levels deep"),
        (b'{"kind": "start", "cycle": ' + b"1" * 400 + b"}\n", "more than 19 digits"),
        (b'{"kind": "start", "cycle": 1, "state": NaN}\n', "NaN, which is no number"),
        (b"\xff\xfe\n", "not UTF-8 text"),
        (None, "a run with --swarm leaves one"),
    ],
)
def test_what_is_no_decision_log_is_refused_in_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError) as refused:
        list(read(tmp_path / NAME))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
