"""A replay finds every decision that does not follow from what the log says was seen."""

import copy
from pathlib import Path

import pytest

import swarm.replay
from errors import InputError
from swarm.decision_log import NAME, read
from swarm.replay import replay
from swarm.simulate import SyntheticRun, simulate
from tests.swarm.small import FRONTIER, steering


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> list:
    """Records of a run with much to decide, that was resumed in the middle."""
    path = tmp_path_factory.mktemp("run") / NAME
    made_up, first = SyntheticRun("divergence"), steering()
    first.log_to(path)
    rows = list(made_up)
    simulate(first, rows[:1000], made_up.obey)
    first.close()
    second = steering()
    second.load(first.state())
    second.log_to(path)
    simulate(second, rows[1000:], made_up.obey)
    second.close()
    return list(read(path))


def test_a_run_of_bids_is_recomputed_alike(tmp_path):
    swarm, made_up = steering(*FRONTIER), SyntheticRun("divergence")
    swarm.log_to(tmp_path / NAME)
    swarm.note(step_ms=[60.0, 50.0, 60.0, 20.0, 60.0, 50.0])
    simulate(swarm, made_up, made_up.obey)
    swarm.close()
    records = list(read(tmp_path / NAME))
    assert replay(tmp_path / NAME, records) == (39, [])
    rules = {(each["lever"], each["rule"]) for r in records[1:] for each in r["verdicts"]}
    assert {("window", "pooled"), ("loops", "pooled"), ("heads", "pooled")} <= rules
    bid = next(each for r in records[1:] for each in r["proposals"] if "gain" in each)
    bid["sd"] *= 0.9
    assert differences(records)


def differences(records):
    return replay(Path(NAME), records)[1]


def test_a_run_s_log_is_recomputed_alike_across_a_resumption(log):
    count, found = replay(Path(NAME), log)
    assert (count, found) == (39, [])
    assert sum(record["kind"] == "start" for record in log) == 2
    assert any(record.get("verdicts") for record in log)


@pytest.mark.parametrize("field", ["after", "before", "rule", "lever", "support", "agents"])
def test_a_changed_verdict_is_found(log, field):
    records = copy.deepcopy(log)
    changed = next(record for record in records if record.get("verdicts"))
    verdict = changed["verdicts"][0]
    verdict[field] = 0.123 if field in ("after", "before", "support") else "other"
    assert f"cycle {changed['cycle']}: verdicts" in differences(records)[0]


@pytest.mark.parametrize("field", ["levers", "votes", "proposals"])
def test_a_changed_part_of_a_cycle_is_found(log, field):
    records = copy.deepcopy(log)
    changed = next(record for record in records if record.get("verdicts"))
    if field == "levers":
        changed["levers"]["clip"] *= 0.999
    else:
        changed[field][0] = []
    assert any(f"cycle {changed['cycle']}: {field}" in line for line in differences(records))


def test_a_changed_snapshot_is_found_where_it_would_decide_otherwise(log):
    records = copy.deepcopy(log)
    calm = next(r for r in records if r["kind"] == "cycle" and not r["verdicts"])
    calm["snapshot"]["nonfinite"] = calm["snapshot"]["arrived"]
    assert differences(records)


def test_levers_that_the_cycle_before_did_not_leave_are_found(log):
    records = copy.deepcopy(log)
    quiet = next(r for r in records[5:] if r["kind"] == "cycle" and not r["verdicts"])
    for levers in (quiet["snapshot"]["levers"], quiet["levers"]):
        levers["kg_weight"] *= 1.01
    assert any("not those that the cycle before left" in line for line in differences(records))


def test_a_cycle_that_is_missing_is_found(log):
    assert differences(log[:12] + log[13:])


def test_a_resumption_from_another_state_is_found(log):
    records = copy.deepcopy(log)
    starts = [record for record in records if record["kind"] == "start"]
    starts[1]["state"]["cycles"] += 1
    assert any(line.startswith("start: state") for line in differences(records))


def test_a_log_of_an_agent_that_is_gone_says_so(log, monkeypatch):
    kept = tuple(kind for kind in swarm.replay.AGENTS if kind.name != "health")
    monkeypatch.setattr(swarm.replay, "AGENTS", kept)
    with pytest.raises(InputError, match="has not: health"):
        differences(log)


@pytest.mark.parametrize("part", ["snapshot", "levers"])
def test_a_record_without_a_part_is_damage(log, part):
    records = copy.deepcopy(log)
    del records[3][part]
    with pytest.raises(InputError, match=r"cycle 3: damaged .* restore the file"):
        differences(records)


def test_a_log_without_its_start_is_refused(log):
    with pytest.raises(InputError, match="does not begin with a start line"):
        differences(log[1:])


# Synthetic runs of commit bf9e9a1, and a run of cbdc977 that adds visits at step 128.
@pytest.mark.parametrize("kind", ["divergence", "nan-storm", "loops"])
def test_a_committed_log_is_recomputed_alike(kind):
    path = Path(__file__).parent / "logs" / f"{kind}.jsonl"
    assert replay(path, list(read(path))) == (39, [])


@pytest.mark.parametrize("value", [0, 10**400, -1, "x", None, [], {}])
def test_a_start_line_of_strange_constants_is_one_line_or_a_difference(log, value):
    """F9: zero divided, integers of 400 digits overflowed, and both ended in tracebacks."""
    for agent in log[0]["agents"]:
        for name in log[0]["agents"][agent]:
            records = copy.deepcopy(log[:12])
            records[0]["agents"][agent][name] = value
            try:
                replay(Path(NAME), records)
            except InputError as error:
                assert "\n" not in str(error)
