"""Measure the numbers of one file on speed: steps of the frontier's network, kernels, starts.

    python -m bench speed
    python -m bench speed --seconds 240 --resume

The network is preset frontier-sprint's with the windows of its last stage: 98,304 tokens a step, in
documents of about 1,024 random ones. What is compared takes turns in one process. The file is
written after each part. A number that a part could not measure is null, and ``missing`` says why.
``--resume`` measures what a file of the same device and commit lacks. The exit code is 1 if a bar
is missed.
"""

import gc
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from bench.harness.contest import Ceilings, measure_ceilings, run_contest
from bench.harness.figures import figures_table
from bench.harness.flex import FlexTrainer
from bench.harness.operation import Entry
from bench.harness.record import Commit, check_out, need_gpu, provenance
from bench.harness.rig import Rig, random_data
from bench.harness.runs import free_memory
from bench.harness.speeds import Record, report
from bench.step import parallel
from bench.step.clock import in_turn
from bench.step.startup import startup
from errors import InputError
from files import PROJECT
from runtime.ranks import World
from settings import Settings
from settings.variants import stage_variants
from training.trainer import Trainer, batch_shape
from training.warm_up import finished

FILE = PROJECT / "bench" / "results" / "frontier-speed.json"
GPUS = 4
SEED = ("--warmup-steps", "3")
FRONTIER = (*SEED, "--preset", "frontier-sprint", "--wallclock", "0", "--kg-loss-weight", "0")
COMPILED = (*FRONTIER, "--stages", "[{until = 1.0}]", "--backend", "compiled")
LOOPS = ("--loop-layers", "3,4,5", "--num-loops", "2")
LOOPED = (*FRONTIER, *LOOPS, "--stages", "[{until = 0.5, loops = 0}, {until = 1.0}]")
# Attention that takes documents, the fastest first.
PEERS: Mapping[str, type[Trainer]] = {"FlexAttention": FlexTrainer, "cuDNN": Trainer}
# A GPU's share of the batch: warm-up with all of it on one GPU would take eight times as long.
START = ("--preset", "frontier", "--train-log-every", "1", "--train-batch-tokens", "98304")
ON_RANKS = ("--preset", "frontier", "--kg-loss-weight", "0")
VOCABULARY = 8192
SOON = 0.001  # seconds, because 0 is no time limit


@dataclass
class Session:
    """What the parts share.

    Attributes:
        folder: for data, logs and compiled kernels.
        device: that is measured.
        ends: when no part may go on, of the monotonic clock.
        options: of all runs, over the parts' own.
        turns, steps: of each way, and timed in each turn.
        artifact, data: as ``python -m evaluation ttt`` takes them; None: none are given.
    """

    folder: Path
    device: torch.device
    ends: float
    options: Sequence[str] = ()
    turns: int = 5
    steps: int = 12
    artifact: Path | None = None
    data: Path | None = None
    rigs: list[Rig] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @cached_property
    def frontier(self) -> Rig:
        """Steps of the network with and without loops."""
        return self.rig(LOOPED)

    def rig(self, options: Sequence[str], trainer: type[Trainer] = Trainer) -> Rig:
        """Return steps by these settings."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        made = Rig(folder, World.single(self.device), [*options, *self.options], trainer)
        self.rigs.append(made)
        return made

    def timed(self, ways: Mapping[str, Callable[[int], float]]) -> dict[str, float]:
        """Return the median milliseconds of a step by way."""
        gc.collect()
        gc.freeze()  # or the loop's collections would go through all that was ever compiled
        try:
            times = in_turn(ways, self.turns, self.steps)
        finally:
            gc.unfreeze()
        return {name: round(statistics.median(each), 3) for name, each in times.items()}

    def end(self, rig: Rig) -> None:
        """Take no further steps."""
        rig.close()
        self.rigs.remove(rig)

    def close(self) -> None:
        """End all."""
        for rig in list(self.rigs):
            self.end(rig)


def with_stage(rig: Rig, number: int) -> Callable[[int], float]:
    """Return whole steps of one of the rig's two stages: how many are wanted -> their seconds."""
    both = rig.settings
    settings = both.model_copy(update={"stages": both.stages[number:]})

    def run(count: int) -> float:
        rig.settings = settings
        try:
            return rig.run(count)
        finally:
            rig.settings = both

    return run


def gradients(trainer: Trainer, settings: Settings) -> Callable[[int], float]:
    """Return forward and backward passes of the first stage, batches loaded as in a step."""
    variant = stage_variants(settings)[0]
    shape = batch_shape(variant, settings, 1)

    def run(count: int) -> float:
        began = finished(trainer)
        for _ in range(count):
            trainer.steps.accumulate(variant, trainer.loader.next_step(shape))
        return finished(trainer) - began

    return run


def start(session: Session, record: Record) -> None:
    """Start processes of preset frontier with an empty cache, then with the first one's."""
    data = random_data(session.folder / "data", VOCABULARY)
    # The kernels that they compile are those of the next parts.
    os.environ["TRITON_CACHE_DIR"] = str(session.folder / "triton")
    phases: dict[str, dict[str, float]] = {}
    for name in ("start_cold", "start_warm"):
        found = startup(data, session.folder / name, dict(os.environ), START)
        seconds = {phase: round(each, 2) for phase, each in found.items()}
        total, phases[name] = seconds.pop("total"), seconds
        record.keep({name: total, "start_phases": phases})


def steps(session: Session, record: Record) -> None:
    """Time forward and backward, whole steps, those with loops, and those of preset seed."""
    rig, seed = session.frontier, session.rig(SEED)
    ways = {
        "forward_backward": gradients(rig.trainer, rig.settings),
        "step": with_stage(rig, 0),
        "step_looped": with_stage(rig, 1),
        "step_seed": seed.run,
    }
    record.keep(session.timed(ways))
    session.end(seed)


def kernels(session: Session, record: Record) -> None:
    """Time each operation at the frontier's sizes over its floor."""
    from bench.kernels.frontier import entries  # needs pytest

    free_memory()
    with torch.cuda.stream(torch.cuda.Stream()):  # no graph can be captured on the default one
        ratios(entries(), measure_ceilings(session.device), session, record)


def ratios(
    entries: Iterable[tuple[Entry, Sequence[str]]],
    ceilings: Ceilings,
    session: Session,
    record: Record,
) -> None:
    """Keep time over floor of each entry in its directions.

    Raises:
        RuntimeError: some are wrong, or failed; the others are kept.
    """
    found, wrong = {}, []
    for entry, directions in entries:
        for direction in directions:
            try:
                contest = entry.contest(direction, alone=True)
                result = run_contest(contest, ceilings, session.device)
            except Exception as error:
                wrong.append(f"{entry.name}, {direction}: {said(error)}")
                if session.left <= 0:
                    raise
            else:
                found[result.name] = round(result.seconds / result.floor, 3)
                record.keep({"kernels": found}, whole=False)
    if wrong:
        raise RuntimeError("; ".join(wrong))
    record.keep({"kernels": found})


def compiled(session: Session, record: Record) -> None:
    """Time whole steps under torch.compile, in turn with ours, by the first peer that works.

    After a compilation that was ended Dynamo is not whole, and another peer would run slower.

    Raises:
        RuntimeError: none does.
    """
    failed = []
    for name, trainer in PEERS.items():
        try:
            times = beside(session, trainer)
        except Exception as error:
            failed.append(f"{name}: {said(error)}")
            if session.left <= 0:
                break
            torch._dynamo.reset()
            free_memory()
        else:
            record.keep({**times, "attention": name})
            return
    raise RuntimeError("; ".join(failed))


def beside(session: Session, trainer: type[Trainer]) -> dict[str, float]:
    """Return milliseconds of our step and of a compiled trainer's."""
    ours, peer = with_stage(session.frontier, 0), session.rig(COMPILED, trainer)
    try:
        return session.timed({"step_beside": ours, "step_compiled": peer.run})
    finally:
        session.end(peer)


def share_of_gpus(session: Session, record: Record) -> None:
    """Compare steps of preset frontier on one GPU and on four; print all that was measured."""
    one, all_of_them = (parallel.measure(gpus, ON_RANKS) for gpus in (1, GPUS))
    print(figures_table(parallel.figures(one, all_of_them, GPUS)), flush=True)
    record.keep({"gpus4": round(parallel.share(one, all_of_them, GPUS), 4)})


def share_of_ttt(session: Session, record: Record) -> None:
    """Time test-time training of an artifact on one GPU and on four.

    Raises:
        InputError: none was given.
    """
    if session.artifact is None or session.data is None:
        raise InputError("test-time training needs --artifact and --data")
    given = [str(session.artifact), "--data", str(session.data)]
    one, all_of_them = (
        min(ttt_seconds(gpus, given) for _ in range(2))  # the first one compiles kernels
        for gpus in (1, GPUS)
    )
    record.keep({"ttt4": round(one / all_of_them, 3)})


def ttt_seconds(gpus: int, given: Sequence[str]) -> float:
    """Return the seconds that ``python -m evaluation ttt`` prints last."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={gpus}", "-m", "evaluation", "ttt", *given]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-2])


class Part(NamedTuple):
    """Numbers that are measured together.

    Attributes:
        fields: their names in the file.
        measure: keeps them.
        least: seconds without which it does not begin.
        gpus: that it needs.
    """

    fields: tuple[str, ...]
    measure: Callable[[Session, Record], None]
    least: float = 0.0
    gpus: int = 0


PARTS = (
    Part(("start_cold", "start_warm"), start, 75),
    Part(("forward_backward", "step", "step_looped", "step_seed"), steps, 50),
    Part(("kernels",), kernels, 15),
    Part(("gpus4",), share_of_gpus, 120, GPUS),
    Part(("ttt4",), share_of_ttt, 90, GPUS),
    Part(("step_compiled",), compiled, 240),  # last, because it may take all that is left
)


def main(
    *,
    out: Path = FILE,
    resume: bool = False,
    seconds: float = 480.0,
    artifact: Path | None = None,
    data: Path | None = None,
    commit: Commit = None,
) -> int:
    """Measure, print the table.

    Args:
        out: file for the numbers
        resume: measure what the file lacks
        seconds: that all parts may take; none begins without enough of them
        artifact: for test-time training on four GPUs
        data: for the artifact
    """
    need_gpu()
    check_out(out)
    ends = time.monotonic() + seconds
    record = Record(out, provenance(commit), resume)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), torch.device("cuda"), ends, artifact=artifact, data=data)
        try:
            measure(session, record)
        finally:
            session.close()
    return report(record)


def measure(session: Session, record: Record, parts: Sequence[Part] = PARTS) -> None:
    """Measure what a record lacks, part by part."""
    for part in parts:
        names = [name for name in part.fields if record.lacks(name)]
        if not names:
            continue
        if torch.cuda.device_count() < part.gpus:
            record.lack(names, f"it needs {part.gpus} GPUs")
        elif session.left < part.least:
            record.lack(names, f"{session.left:.0f} s were left: go on with --resume")
        else:
            record.lack(names, "interrupted")
            try:
                with limited(session.left):
                    part.measure(session, record)
            except Exception as error:
                record.lack((name for name in names if name in record.missing), said(error))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread if a context takes longer; it may be inside another."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it was ended after {seconds:.0f} s: go on with --resume")

    before, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, SOON))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), SOON))


def said(error: Exception) -> str:
    """Return an error's kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
