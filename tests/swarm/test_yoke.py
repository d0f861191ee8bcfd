"""A yoked run does what a log says at the same progress, and looks at nothing."""

import json
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import pytest

from errors import InputError
from settings.load import load_settings
from swarm.decision_log import NAME, read
from swarm.replay import replay
from swarm.simulate import Row, SyntheticRun, simulate
from swarm.steering import Steering
from tests.swarm.ranks import decisions_of_ranks
from tests.swarm.small import steering

Levers = dict[float, dict[str, float]]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """Of a run with much to decide, a copy that is restored included."""
    path, swarm, made_up = (
        tmp_path_factory.mktemp("run") / NAME,
        steering(),
        SyntheticRun("divergence"),
    )
    swarm.log_to(path)
    simulate(swarm, made_up, made_up.obey)
    swarm.close()
    return path


def yoked(log: Path, *arguments: str) -> Steering:
    return steering("--swarm-yoke", str(log), *arguments)


def stepped(swarm: Steering, rows: Iterable[Row]) -> Levers:
    """Levers at the progress of each step, as the training loop has them."""
    found = {}
    for row in rows:
        if swarm.due(row.step, row.progress):
            swarm.cycle(row.step, row.progress, row.lr_scale)
        swarm.add(row.loss, row.gradient_norm)
        found[row.progress] = dict(swarm.levers)
    return found


def path_of(log: Path) -> Levers:
    cycles = [record for record in read(log) if record["kind"] == "cycle"]
    return {each["snapshot"]["progress"]: each["levers"] for each in cycles}


def test_levers_move_as_in_the_log_whatever_the_run_does(log):
    swarm = yoked(log)
    cycles = simulate(swarm, SyntheticRun("nan-storm", seed=3))
    found = [(each["levers"], each["verdicts"]) for each in cycles]
    logged = [record for record in read(log) if record["kind"] == "cycle"]
    assert [levers for levers, _ in found] == [each["levers"] for each in logged]
    for (_, verdicts), record in zip(found, logged, strict=True):
        changes = {(v["lever"], v["before"], v["after"]) for v in record["verdicts"]}
        changes = {each for each in changes if each[1] != each[2]}
        assert {(v["lever"], v["before"], v["after"]) for v in verdicts} == changes
    rules = {verdict["rule"] for _, verdicts in found for verdict in verdicts}
    assert rules == {"yoked"}
    assert {"keep", "rollback"} <= {v["lever"] for _, verdicts in found for v in verdicts}


@pytest.mark.parametrize("steps", [97, 331, 4999])
def test_runs_of_other_lengths_move_at_the_same_progress(log, steps):
    rows = [Row(step, step / steps, 1.0, 2.0, 0.3) for step in range(steps)]
    logged = {0.0: steering().levers} | path_of(log)
    cycles = list(logged)
    for progress, levers in stepped(yoked(log), rows).items():
        if levers != logged[cycles[bisect_right(cycles, progress) - 1]]:
            pytest.fail(f"at {progress} of {steps} steps: {levers}")


def test_what_the_logs_agents_steered_is_held_where_they_changed_nothing(log):
    kept = [line for line in log.read_text().splitlines() if '"kind": "start"' in line]
    quiet = log.parent / "quiet.jsonl"
    quiet.write_text("\n".join(kept) + "\n")
    assert yoked(quiet).decided == steering().decided


def test_a_yoked_run_has_no_agents_and_measures_nothing(log):
    swarm = yoked(log)
    assert swarm.reads == frozenset()
    assert swarm.mesh.agents == ()


def test_a_yoked_run_s_log_replays_and_can_be_obeyed_itself(log, tmp_path):
    first, rows = yoked(log), list(SyntheticRun("calm"))
    first.log_to(tmp_path / NAME)
    simulate(first, rows[:1000])
    first.close()
    second = yoked(log)
    second.load(json.loads(json.dumps(first.state())))
    second.log_to(tmp_path / NAME)
    simulate(second, rows[1000:])
    second.close()
    records = list(read(tmp_path / NAME))
    assert replay(tmp_path / NAME, records) == (39, [])
    records[-1]["levers"]["clip"] *= 1.01
    assert replay(tmp_path / NAME, records)[1]
    assert path_of(tmp_path / NAME) == path_of(log)


def test_a_rehearsal_passes_nothing(log):
    swarm = yoked(log)
    before = json.dumps(swarm.state())
    swarm.rehearse(3000, 0.99, 1.0)
    assert json.dumps(swarm.state()) == before


def test_a_copy_that_was_never_taken_is_not_restored(log):
    swarm = yoked(log)
    swarm.mesh.cycle(swarm.cycle(1, 0.2, 1.0).snapshot)  # passes the first copies unseen
    swarm.kept = None
    cycle = swarm.cycle(3199, 0.99, 0.1)
    assert not cycle.rollback
    assert ("rollback", "nothing kept") in {(v.lever, v.rule) for v in cycle.verdicts}


def changed(log: Path, before: str, after: str) -> Path:
    text = log.read_text()
    assert before in text
    path = log.parent / "changed.jsonl"
    path.write_text(text.replace(before, after))
    return path


def test_a_copy_of_the_start_is_kept_where_the_logs_agents_kept_one(log):
    assert yoked(log).kept is None
    assert yoked(changed(log, '"health": {', '"guard": {')).kept == 0


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"lever": "clip"', '"lever": "clap"', "no lever 'clap'"),
        ('"after": 0.15,', '"after": 17.5,', "clip 17.5 is out of this run's range"),
        ('"progress": 0.5,', '"progress": 0.0,', "progress 0.0 after"),
        ('"health": {', '"wealth": {', "no agent 'wealth' steers here"),
        ('"health": {', f'"{"w" * 9000}": {{', "no agent 'www"),
        ('"lever": "clip"', f'"lever": "{"x" * 9000}"', "no lever 'xxx"),
        ('"kind": "cycle"', '"kind": "circle"', "no record of a decision log"),
    ],
)
def test_a_log_that_cannot_be_obeyed_is_refused_in_one_line(log, before, after, says):
    with pytest.raises(InputError, match=says) as caught:
        yoked(changed(log, before, after))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_run_without_the_logs_lever_refuses_it(log):
    windows = log.parent / "windows.jsonl"
    windows.write_text(log.read_text().replace('"lever": "clip"', '"lever": "window"'))
    with pytest.raises(InputError, match="no lever 'window'; give it the settings"):
        yoked(windows)


def test_what_is_no_log_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*a run with --swarm leaves one"):
        yoked(tmp_path / "nowhere")
    with pytest.raises(InputError, match=NAME):
        yoked(tmp_path)


def test_a_run_without_a_swarm_obeys_nothing(log):
    with pytest.raises(InputError, match="leave one of them out"):
        Steering.of(load_settings(["--no-swarm", "--swarm-yoke", str(log)], {}))


@pytest.mark.slow
def test_ranks_obey_alike(log):
    (first, changes), (second, _) = decisions_of_ranks(2, str(log), cycles=200)
    assert first == second
    assert {"qat", "clip"} <= set(changes)
