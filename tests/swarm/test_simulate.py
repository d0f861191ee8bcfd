"""Whole runs, made up: each trouble ends in the right decisions, and a calm run in none."""

import pytest

from swarm.simulate import KINDS, TROUBLE, Row, SyntheticRun, recorded, simulate
from tests.swarm.small import steering

EVERY = 80


def run(kind, *arguments, seed=0):
    """(swarm, run, records) of a made-up run."""
    swarm, made_up = steering(*arguments), SyntheticRun(kind, seed)
    return swarm, made_up, simulate(swarm, made_up, made_up.obey)


def changes(records, lever):
    """(step, value) of each change of a lever."""
    return [
        (record["snapshot"]["step"], verdict["after"])
        for record in records
        for verdict in record["verdicts"]
        if verdict["lever"] == lever and verdict["after"] != verdict["before"]
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_schedule_is_kept_and_the_run_ends_steered_back(kind, seed):
    swarm, made_up, records = run(kind, seed=seed)
    assert swarm.levers["qat"] == 1.0
    assert swarm.levers["mtp_weight"] == 0.05
    assert swarm.levers["kg_weight"] == pytest.approx(0.1)
    assert swarm.levers["clip"] == 0.3
    assert swarm.levers["skip_norm"] == 3e38
    if kind != "plateau":
        assert swarm.levers["lr_factor"] == 1.0
    assert made_up.lost < 0.01
    assert changes(records, "keep")


@pytest.mark.parametrize("seed", range(20))
def test_a_calm_run_alarms_nobody(seed):
    _, _, records = run("calm", seed=seed)
    for lever in ("clip", "lr_factor", "rollback", "skip_norm"):
        assert not changes(records, lever)


def test_a_spike_tightens_the_clip_at_the_next_cycle_and_nothing_else():
    _, _, records = run("spike")
    assert changes(records, "clip")[0] == (TROUBLE.start + EVERY, 0.15)
    assert changes(records, "skip_norm")[0][0] == TROUBLE.start + EVERY
    assert not changes(records, "lr_factor")
    assert not changes(records, "rollback")


def test_a_divergence_slows_the_run_and_returns_it_to_its_last_good_state():
    _, _, records = run("divergence")
    (when, _), *_ = changes(records, "rollback")
    assert when <= TROUBLE.start + 3 * EVERY
    kept = [step for step, _ in changes(records, "keep") if step <= TROUBLE.start]
    (at,) = [r["snapshot"]["kept"] for r in records if r["snapshot"]["step"] == when]
    assert at == kept[-1]
    assert min(value for _, value in changes(records, "lr_factor")) <= 0.25


def test_a_loss_that_jumps_and_creeps_down_from_there_is_given_up_at_the_second_window():
    rows = [
        row._replace(loss=row.loss + 1.0 if row.step >= TROUBLE.start else row.loss)
        for row in SyntheticRun("calm")
        if row.step < TROUBLE.stop
    ]
    records = simulate(steering(), rows)
    assert changes(records, "rollback")[0] == (TROUBLE.start + 2 * EVERY, 1.0)


def test_a_loss_that_jumps_and_comes_back_soon_is_left_to_itself():
    rows = [
        row._replace(loss=row.loss + max(0.0, 1.0 - 0.002 * (row.step - TROUBLE.start)))
        if row.step >= TROUBLE.start
        else row
        for row in SyntheticRun("calm")
    ]
    assert not changes(simulate(steering(), rows), "rollback")


def test_without_the_health_agent_a_divergence_is_not_undone():
    _, made_up, records = run("divergence", "--agents-off", "health")
    assert not changes(records, "rollback")
    assert made_up.lost > 0.5


def test_a_nan_storm_tightens_slows_and_recovers_without_going_back():
    _, _, records = run("nan-storm")
    assert changes(records, "clip")[0] == (TROUBLE.start + EVERY, 0.15)
    assert changes(records, "lr_factor")[0] == (TROUBLE.start + EVERY, 0.5)
    assert not changes(records, "rollback")


def test_a_plateau_lowers_the_rate():
    _, _, records = run("plateau")
    (_, value), *_ = changes(records, "lr_factor")
    assert value == 0.7


def test_on_a_slow_machine_all_happens_at_the_same_share_of_the_clock():
    when = {}
    for kind in ("calm", "slow"):
        _, _, records = run(kind)
        progress = {r["snapshot"]["step"]: r["snapshot"]["progress"] for r in records}
        when[kind] = [
            progress[step]
            for lever in ("kg_weight", "qat", "mtp_weight")
            for step, _ in changes(records, lever)
        ]
    assert len(when["slow"]) == len(when["calm"]) == 5
    for slow, calm in zip(when["slow"], when["calm"], strict=True):
        assert calm <= slow + 1e-9 < calm + 1.5 * EVERY / (3200 // 3)


def test_a_run_s_log_is_a_trace_whatever_steps_it_holds():
    events = [{"kind": "validation", "step": 5, "bpb": 1.2}]
    events += [
        {"kind": "step", "step": step, "progress": 0.1, "lr_scale": 1.0, **numbers}
        for step, numbers in (
            (10, {"loss": 3.0, "gradient_norm": 0.3}),
            (100, {"loss": None, "gradient_norm": 0.3}),
            (170, {"loss": 2.9, "gradient_norm": 0.3}),
        )
    ]
    rows = list(recorded(events))
    assert rows[0] == Row(9, 0.1, 1.0, 3.0, 0.3)
    seen = [record["snapshot"] for record in simulate(steering(), rows)]
    assert [(s["step"], s["arrived"], s["nonfinite"]) for s in seen] == [(99, 1, 0), (169, 1, 1)]
