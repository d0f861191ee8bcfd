"""What the loop has of a swarm: it decides by the clock, alike on every rank, and can go on."""

import json
import math
import random
from collections.abc import Iterator

import pytest
import torch

from errors import InputError
from settings.load import load_settings
from swarm.agents import AGENTS
from swarm.mesh import Cycle
from swarm.steering import Steering
from tests.swarm.ranks import decisions_of_ranks, telemetry
from tests.swarm.small import LEVERS, steering
from training.device_levers import DeviceLevers

OPEN = ["--preset", "frontier-sprint", "--swarm-agents", "frontier", "--stages", "[]"]
OPEN += ["--swarm-windows", "256,512,2048"]


def feed(swarm: Steering, cycles: range, seed: int) -> Iterator[Cycle]:
    """Cycles of a noisy run with faults."""
    draw = random.Random(seed)
    for number in cycles:
        for _ in range(8):
            loss, square = telemetry(number, draw)
            swarm.add(loss, math.sqrt(square))
        yield swarm.cycle(80 * number, number / 400, min(1.0, 4 - number / 100))


def test_a_swarm_steers_the_levers_of_its_agents_and_no_others():
    assert set(steering().decided) == set(LEVERS)
    only = Steering.of(load_settings(["--agents-off", "health,lr,kg"], {}))
    assert only is not None
    assert only.decided == {"qat": 0.0, "mtp_weight": 0.1}


def test_what_is_decided_is_what_the_levers_take():
    swarm, settings = steering(), load_settings([], {})
    levers = DeviceLevers(settings, torch.device("cpu"))
    for cycle in feed(swarm, range(1, 400), seed=0):
        levers.schedule(clip=9.0, lr_factor=9.0, qat=9.0)  # what settings and schedule say
        levers.decide(**swarm.decided)
        assert {name: levers.value(name) for name in cycle.levers} == cycle.levers


def test_a_swarm_begins_with_the_settings_levers():
    swarm = steering(
        "--grad-clip-norm", "0.7", "--kg-loss-weight", "0.4", "--mtp-loss-weight", "0.2"
    )
    assert swarm.levers == {
        "clip": 0.7,
        "kg_weight": 0.4,
        "lr_factor": 1.0,
        "mtp_weight": 0.2,
        "qat": 0.0,
        "skip_norm": 3e38,
    }


def test_a_rehearsal_leaves_no_trace():
    plain, rehearsed = steering(), steering()
    expected, found = [], []
    for number, cycle in enumerate(feed(plain, range(1, 400), seed=3), 1):
        expected.append((number, cycle))
    draw = random.Random(3)
    for number in range(1, 400):
        for place in range(8):
            loss, square = telemetry(number, draw)
            rehearsed.add(loss, math.sqrt(square))
            if place in (3, 7):
                before = json.dumps(rehearsed.state())
                rehearsed.rehearse(80 * number, number / 400, min(1.0, 4 - number / 100))
                assert json.dumps(rehearsed.state()) == before
        found.append(
            (number, rehearsed.cycle(80 * number, number / 400, min(1.0, 4 - number / 100)))
        )
    assert found == expected
    assert rehearsed.state() == plain.state()
    assert len(rehearsed.microseconds) == 399


def test_rules_are_settings():
    swarm = steering(
        "--swarm-alone", "0.95", "--swarm-objection", "0.5", "--swarm-withdrawn", "0.1"
    )
    rules = swarm.mesh.rules
    assert (rules.alone, rules.objection, rules.withdrawn) == (0.95, 0.5, 0.1)


def test_off_is_off():
    assert Steering.of(load_settings(["--no-swarm"], {})) is None
    every = ",".join(kind.name for kind in AGENTS if "seed" in kind.sets)
    assert Steering.of(load_settings(["--agents-off", every], {})) is None


def test_an_agent_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InputError, match="no agent 'qta'; there are: qat, kg, health, mtp, lr"):
        Steering.of(load_settings(["--agents-off", "qta"], {}))


@pytest.mark.parametrize(
    ("agents", "name", "words"),
    [
        ("frontier", "lr", "'lr'; there are: qat, pace, .*, recovery; did you mean rate"),
        ("frontier", "health", "'health'; .* did you mean guard"),
        ("frontier", "mtp", "'mtp'; there are: [a-z, ]*$"),
        ("seed", "rate", "'rate'; there are: qat, kg, health, mtp, lr; did you mean lr"),
        ("seed", "qta", "'qta'; .* did you mean qat"),
    ],
)
def test_an_agent_of_the_other_set_is_refused_with_what_the_set_has(agents, name, words):
    settings = load_settings(["--swarm-agents", agents, "--agents-off", name], {})
    with pytest.raises(InputError, match=f"agents_off: set {agents} has no agent {words}"):
        Steering.of(settings)
    assert Steering.of(settings.model_copy(update={"resume": "runs/x"}))


@pytest.mark.parametrize("name", ["windows", "loops", "heads"])
def test_options_from_which_no_agent_of_the_set_chooses_are_refused(name):
    given = [f"--swarm-{name}", "0"]
    with pytest.raises(InputError, match=f"swarm_{name}: no agent of set seed chooses"):
        Steering.of(load_settings(given, {}))
    assert Steering.of(load_settings([*given, "--no-swarm"], {})) is None
    assert Steering.of(load_settings([*given, "--swarm-agents", "frontier"], {}))
    assert Steering.of(load_settings(given, {}).model_copy(update={"resume": "runs/x"}))


def test_cycles_come_every_so_many_steps():
    swarm = steering("--swarm-every", "3")
    assert [step for step in range(10) if swarm.due(step)] == [3, 6, 9]


@pytest.mark.parametrize(
    ("steps", "options", "cycles"),
    [
        (2000, ["--swarm-windows", "256,0"], 24),  # 80 steps are 4 % of them
        (200, ["--swarm-windows", "256,0"], 19),
        (200, [], 2),
    ],
)
def test_a_short_run_whose_agents_choose_by_its_progress_has_cycles_enough(steps, options, cycles):
    swarm, count = steering("--swarm-agents", "frontier", "--wallclock", "60", *options), 0
    for step in range(steps):
        swarm.add(3.0, 0.3)
        if swarm.due(step, step / steps):
            before, count = swarm.state(), count + 1
            swarm.cycle(step, step / steps, 1.0)
            assert not swarm.due(step + 1, (step + 1) / steps)
            swarm.load(swarm.state())
            assert not swarm.due(step + 1, (step + 1) / steps)
            assert before["at"] < swarm.state()["at"]
    assert count == cycles


@pytest.mark.parametrize("seconds", [20, 30, 60, 75, 150, 600])
def test_in_runs_of_all_lengths_the_window_follows_the_table(seconds):
    """The sprint's milliseconds on an H200: 30 s once ended without the window of evaluation."""
    swarm, times = steering(*OPEN, "--wallclock", str(seconds)), {256: 55.6, 512: 56.5, 2048: 58.1}
    now, step, found = 0.0, 0, []
    while now < seconds:
        window, progress = swarm.choices.get("window", 2048), now / seconds
        if swarm.due(step, progress):
            swarm.note(step_ms=[times[int(window)], *times.values()])
            cycle = swarm.cycle(step, progress, min(1.0, (1 - progress) / 0.55))
            found += [(progress, each) for name, each in cycle.changed.items() if name == "window"]
        now, step = now + times[int(swarm.choices.get("window", 2048))] / 1000, step + 1
        swarm.add(2.0 + 5.0 * (step + 10) ** -0.4 + 0.01 * (-1) ** step, 0.3)
    assert [each for _, each in found] == [256, 512, 2048]
    for (progress, _), due in zip(found, (0.0, 0.4, 0.7), strict=True):
        assert due <= progress < due + 0.06


@pytest.mark.parametrize("agent", ["qat", "kg", "mtp"])
def test_in_a_run_that_the_clock_ends_early_what_goes_by_progress_happens(agent):
    """350 of 20,000 steps: by their number nothing would ever be due."""
    swarm, changed = steering("--wallclock", "60", "--iterations", "20000"), set()
    for step in range(350):
        if swarm.due(step):
            changed |= set(swarm.cycle(step, step / 350, min(1.0, (350 - step) / 100)).changed)
        swarm.add(3.0 - step / 350, 0.3)
    assert {"qat": "qat", "kg": "kg_weight", "mtp": "mtp_weight"}[agent] in changed


def test_the_loop_keeps_a_state_before_it_returns_to_it():
    kept, returned = None, 0
    swarm = steering()
    for cycle in feed(swarm, range(1, 400), seed=1):
        assert cycle.snapshot.kept == kept
        if cycle.rollback:
            assert kept is not None
            returned += 1
        if cycle.keep:
            kept = cycle.snapshot.step
    assert returned > 1


@pytest.mark.parametrize(("agents", "lowest", "rise"), [("seed", 2.0, 0.5), ("frontier", 2.5, 0.0)])
def test_after_a_roll_back_losses_are_compared_with_those_before_the_copy(agents, lowest, rise):
    """The lost branch had lower ones; set seed compares with these."""
    swarm = Steering.of(load_settings(["--swarm-agents", agents, "--late-qat-threshold", "0"], {}))
    assert swarm is not None
    losses, cycle = (5.0, 3.0, 2.9, 2.5, 2.0, math.nan, 2.5), None
    for number, loss in enumerate(losses, 1):
        if agents == "seed":  # which keeps later
            swarm.kept = 8
        for noise in (-0.01, 0.01):
            swarm.add(loss + noise, 0.3)
        cycle = swarm.cycle(2 * number, number / 20, 1.0)
    assert cycle
    assert cycle.snapshot.signals["lowest"] == pytest.approx(lowest)
    assert cycle.snapshot.signals["velocity"] == pytest.approx(rise / 2)
    assert bool(cycle.changed) == (rise > 0)


@pytest.mark.parametrize("stop", [1, 37, 200])
def test_a_restored_swarm_goes_on_bit_for_bit(stop):
    whole, restored = steering(), steering()
    assert len(list(feed(whole, range(1, stop), seed=3))) == stop - 1
    whole.add(2.5, 0.4)  # the window that is open when the checkpoint is written
    restored.load(json.loads(json.dumps(whole.state(), allow_nan=False)))
    after = range(stop, 400)
    assert list(feed(restored, after, seed=4)) == list(feed(whole, after, seed=4))
    assert restored.state() == whole.state()


def test_a_checkpoint_of_other_agents_is_refused():
    with pytest.raises(InputError, match="agents_off"):
        steering("--agents-off", "qat").load(steering().state())
    with pytest.raises(InputError, match="agents_off"):
        steering().load({})


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_decide_alike_without_a_word(size):
    ranks = decisions_of_ranks(size)
    assert len({digest for digest, _ in ranks}) == 1
    assert {"qat", "kg_weight", "mtp_weight", "clip", "lr_factor", "rollback"} <= set(ranks[0][1])
    assert {"window", "loops", "heads"} <= set(ranks[0][1])
    assert sum(ranks[0][1].values()) > 100
