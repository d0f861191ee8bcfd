"""One run with a trouble: planted, trained, and what it came to."""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import train
from bench.harness.runs import MAKE_AGAIN, clear, free_memory, unquantised
from bench.rescue.baselines import AdaGC, ZClip
from bench.rescue.site import Clock, Site, replaced
from bench.rescue.troubles import TROUBLES, Plant
from errors import InputError
from files import write_text
from reading.structured import Form, read_json
from runtime import ROUNDTRIP
from runtime.records import LOG, read_log
from swarm.decision_log import NAME, read
from swarm.levers import RESCALE, ROLLBACK
from training.loop import SKIP_NOISE, Loop
from training.trainer import Trainer

OUTCOME = "rescue.json"
# What a swarm changes only because something seems wrong: such changes are alarms.
ALARMS = {"clip", "skip_norm", "lr_factor", "lr_fit", "memory", RESCALE, ROLLBACK}
GUARDS: dict[str, Callable[[], ZClip | AdaGC]] = {"F1": ZClip, "F2": AdaGC}
Outcome = dict[str, Any]


class Run(NamedTuple):
    """One run of the bench.

    Attributes:
        folder: of the run.
        command: of train.py.
        trouble: its name, or "" for a clean run.
        arm: key of `bench.rescue.rescue.ARMS`.
        seed: of the run, which also fixes where trouble strikes.
        step_seconds: that a step counts on its clock; 0: real time.
        artifact: whether an artifact is made and scored; otherwise the weights that it would hold.
    """

    folder: Path
    command: list[str]
    trouble: str
    arm: str
    seed: int
    step_seconds: float = 0.0
    artifact: bool = True


class Kept(Form):
    """An outcome of ``found``, in a run's folder."""

    artifact: bool
    bpb: float | None
    uniform: float | None
    steps: int
    step_ms: float
    exported: str | None
    struck: int | None
    acted: int | None
    alarms: int


def outcome(*run: Any) -> Outcome:
    """Return what a run came to; it is made here if its folder has no outcome.

    Args:
        run: fields of ``Run``, because processes pass them.

    Raises:
        InputError: train.py refused the settings, or the outcome is of the other kind of weights.
    """
    asked = Run(*run)
    file = asked.folder / OUTCOME
    if not file.exists():
        clear(asked.folder)
        site = made(asked)
        write_text(file, json.dumps(found(asked, site)) + "\n")
    outcome = read_json(file, Kept, MAKE_AGAIN).model_dump()
    if outcome["artifact"] != asked.artifact:
        kind = "an artifact" if outcome["artifact"] else "no artifact"
        raise InputError(f"{asked.folder} holds a run with {kind}; choose other --runs")
    return outcome


def made(run: Run) -> Site:
    """Make a run; return where its trouble was planted."""
    clock, scoring = Clock(run.step_seconds), nullcontext() if run.artifact else unquantised()
    planted = planting(plant_of(run), GUARDS.get(run.arm), run.seed, clock)
    with planted as sites, clock.worn(), scoring:
        status = train.main([*run.command, "--run-dir", str(run.folder)])
    free_memory()
    if not sites or not sites[0].progress:  # no step was taken
        raise InputError(f"train.py {shlex.join(run.command)} ended with {status}")
    return sites[0]


def plant_of(run: Run) -> Plant | None:
    """Return what is planted in a run."""
    if not run.trouble:
        return None
    trouble = TROUBLES[run.trouble]
    return trouble.told if run.arm == "O" else trouble.plant


@contextmanager
def planting(
    plant: Plant | None, guard: Callable[[], ZClip | AdaGC] | None, seed: int, clock: Clock
) -> Iterator[list[Site]]:
    """Let the run that starts in this context have a trouble and a guard; gets its site."""
    sites: list[Site] = []
    score, loop_run = train.train_and_score, Loop.run

    def planted(rank: Any, trainer: Trainer, *rest: Any) -> int:
        sites.append(site := Site(trainer, seed, clock))
        with ExitStack() as stack:
            stack.enter_context(site.before_steps(clock.count))
            if plant:
                stack.enter_context(plant(site))
            return score(rank, trainer, *rest)

    def guarded(loop: Loop) -> None:
        (site,) = sites
        with ExitStack() as stack:
            if guard:  # only now, because the warm-up's steps say nothing
                stack.enter_context(site.gradients(guard()))
            loop_run(loop)

    with replaced(train, "train_and_score", planted), replaced(Loop, "run", guarded):
        yield sites


def found(run: Run, site: Site) -> Outcome:
    """Return what a run came to: bits per byte of what it exports, and when it acted.

    Without finite weights to export ``bpb`` is None.
    """
    file, facts = run.folder / "summary.json", {}
    if file.exists():
        facts = json.loads(file.read_text(encoding="utf-8"))
    score = facts.get("scores", {}).get(f"{ROUNDTRIP}, plain", {})
    bpb, nats = score.get("bpb"), score.get("nats")
    finite = bpb is not None and math.isfinite(bpb)
    alarms = sorted([*alarms_of(run.folder / NAME), *noise_of(run.folder / LOG)])
    first = next((step for step in alarms if site.struck is not None and step >= site.struck), None)
    return {
        "artifact": run.artifact,
        "bpb": bpb if finite else None,
        # What a network scores that knows nothing.
        "uniform": math.log(site.trainer.model.config.vocab_size) / nats * bpb if finite else None,
        "steps": facts.get("steps", site.step + 1),
        "step_ms": facts.get("step_ms", 0.0),
        "exported": facts.get("exported_weights"),
        "struck": site.struck,
        "acted": first,
        "alarms": len(alarms),
    }


def noise_of(log: Path) -> Sequence[int]:
    """Return the step of each cycle before which windows of noise were left out."""
    if not log.exists():
        return ()
    return [row["step"] for row in read_log(log) if row.get("lever") == SKIP_NOISE]


def alarms_of(log: Path) -> Sequence[int]:
    """Return the step of each change that a swarm makes only in trouble; none without a log."""
    if not log.exists():
        return ()
    return [
        record["snapshot"]["step"]
        for record in read(log)
        if record["kind"] == "cycle"
        for verdict in record["verdicts"]
        if verdict["lever"] in ALARMS and verdict["after"] != verdict["before"]
    ]
