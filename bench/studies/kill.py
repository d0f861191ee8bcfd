"""Kill runs at random moments of all their phases, resume each, and compare what it comes to.

    python -m bench kill [--runs 100] [--seed 0] [--jobs 2]

A run of preset tiny, still smaller, gets SIGKILL, SIGTERM, SIGINT or SIGHUP. It is resumed, or
started again in the same folder if no checkpoint was written yet. Its artifact and its scores must
be those of a run that nobody killed, bit for bit; but after SIGKILL, it must have left one line.
"""

import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.harness.forked import VOCAB, Run, make_data, preload
from bench.harness.markdown import markdown
from bench.harness.record import provenance
from runtime import checkpoint
from runtime.run_folder import ARTIFACT, CHECKPOINTS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Each with the line that begins it in a run's output.
PHASES = {
    "building": "building the model",
    "warming up": "warming up",
    "steps": "length  ",
    "calibrating": "calibrating",
    "evaluating": "evaluating raw",
    "exporting": "exporting",
    "evaluating the artifact": "evaluating roundtrip",
    "finishing": "finished",
}
OPTIONS = {
    "preset": "tiny",
    "device": "cpu",
    "vocab_size": VOCAB,
    "num_layers": 3,
    "model_dim": 32,
    "rope_dims": 4,
    "xsa_last_n": 1,
    "near_layers": 0,
    "near_window": 8,
    "parallel_from": 2,
    "ve_layers": 2,
    "ve_dim": 8,
    "bigram_vocab_size": 64,
    "bigram_dim": 8,
    "ttt_chunk_tokens": 256,
    "ttt_lora_chunk": 32,
    "train_seq_len": 32,
    "train_batch_tokens": 384,
    "micro_batch_tokens": 384,
    "eval_seq_len": 32,
    "eval_stride": 8,
    "val_batch_size": 4096,
    "wallclock": 0,
    "iterations": 16,
    "warmdown_iters": 8,
    "muon_momentum_warmup_steps": 8,
    "calibration_tokens": 3072,
    "checkpoint_minutes": 0.003,
    "swarm_every": 4,
}
HANGS = 120.0  # seconds


class Case(NamedTuple):
    """A run that was killed.

    Attributes:
        signal: its name.
        phase: in which it came, by what the run had printed.
        again: "resumed", "started again", or "-" if the signal came too late.
        faults: what was wrong; empty if nothing was.
    """

    signal: str
    phase: str
    again: str
    faults: list[str]


def options(data: Path, run: Path) -> list[str]:
    """Return the arguments of a new run."""
    given = OPTIONS | {"data": data, "run_dir": run}
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [word for pair in pairs for word in pair]


def phase_of(said: Sequence[str]) -> str:
    """Return the phase that a run's last line belongs to."""
    found = "starting"
    for line in said:
        found = next((name for name, begins in PHASES.items() if begins in line), found)
    return found


def result(run: Path) -> tuple[bytes, dict]:
    """Return the artifact and the scores of a run, without the seconds that they took."""
    scores = json.loads((run / "summary.json").read_text(encoding="utf-8"))["scores"]
    rows = {name: {**row, "seconds": 0} for name, row in scores.items()}
    return (run / ARTIFACT).read_bytes(), rows


def awaited(run: Run) -> int:
    """Return a run's exit code; end it if it hangs."""
    until = time.monotonic() + HANGS
    while not run.has_ended():
        if time.monotonic() > until:
            run.kill(signal.SIGKILL)
        time.sleep(0.01)
    return run.wait()


def phases(data: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of each phase of a run that nobody kills."""
    run, found = Run(options(data, folder / "straight"), folder / "straight.txt"), {}
    while not run.has_ended():
        found.setdefault(phase_of(run.said), time.monotonic())
        time.sleep(0.001)
    if run.wait() != 0:
        raise RuntimeError("\n".join(run.said))
    ends = [*list(found.values())[1:], time.monotonic()]
    return {name: end - began for (name, began), end in zip(found.items(), ends, strict=True)}


def case(number: int, seed: int, data: Path, lengths: Mapping[str, float]) -> Case:
    """Kill a run in phase ``number`` of all, go on with it, and compare; ``lengths`` as found."""
    folder, draw = data.parent, random.Random(f"{seed} {number}")
    killer = SIGNALS[number % len(SIGNALS)]
    phase = list(lengths)[number // len(SIGNALS) % len(lengths)]
    run_folder = folder / f"run{number}"
    run = Run(options(data, run_folder), folder / f"run{number}.txt")
    while phase_of(run.said) != phase and not run.has_ended():
        time.sleep(0.002)
    time.sleep(draw.uniform(0, lengths[phase]))
    phase, late = phase_of(run.said), run.has_ended()
    run.kill(killer)
    code, said = awaited(run), run.said
    faults = [] if late or killer == signal.SIGKILL else wrong(killer, code, said)
    again, more = go_on(run_folder, data, folder / f"again{number}.txt")
    straight, found = result(folder / "straight"), ""
    if not more and result(run_folder) != straight:
        found = "another artifact" if result(run_folder)[0] != straight[0] else "other scores"
    return Case(
        killer.name, phase, "-" if late else again, [*faults, *more, *[found] * bool(found)]
    )


def wrong(killer: int, code: int, said: Sequence[str]) -> list[str]:
    """Return what is wrong with how a run ended after a signal."""
    faults = []
    if code not in (0, 128 + killer):
        faults.append(f"exit code {code}")
    if code and sum("interrupted" in line for line in said) != 1:
        faults.append(f"no line, but {said[-1:]}")
    if any("Traceback" in line for line in said):
        faults.append("a traceback")
    return faults


def go_on(run: Path, data: Path, output: Path) -> tuple[str, list[str]]:
    """Resume a run, or start it again without a checkpoint; return which, and what is wrong."""
    has_one = checkpoint.latest(run / CHECKPOINTS) is not None
    again = Run(["--resume", str(run)] if has_one else options(data, run), output, picture=False)
    code = awaited(again)
    left = [path.name for path in run.rglob(".*")]
    faults = [f"left: {left}"] if left else []
    if code:
        faults.append(f"resumed: exit code {code}, {again.said[-1:]}")
    return "resumed" if has_one else "started again", faults


def table(cases: Sequence[Case]) -> str:
    """Return how many kills each phase had by signal, and how they went on."""
    names = [each.name for each in SIGNALS]
    rows = []
    for phase in ("starting", *PHASES):
        of_phase = [each for each in cases if each.phase == phase]
        killed, again = (Counter(getattr(c, key) for c in of_phase) for key in ("signal", "again"))
        cells = [killed[name] for name in names] + [again["resumed"], again["started again"]]
        cells.append(sum(bool(each.faults) for each in of_phase))
        rows.append([phase, *map(str, cells)])
    return markdown(["phase", *names, "resumed", "started again", "lost"], rows)


def main(*, runs: int = 100, seed: int = 0, jobs: int = 2) -> int:
    """Print the table and what was wrong; 1 if anything was."""
    preload()
    cases = []
    with tempfile.TemporaryDirectory() as temporary, get_context("fork").Pool(jobs) as pool:
        data = make_data(Path(temporary) / "data")
        one = partial(case, seed=seed, data=data, lengths=phases(data, data.parent))
        with suppress(KeyboardInterrupt):  # then the table is of the kills so far
            for number, found in enumerate(pool.imap(one, range(runs)), 1):
                cases.append(found)
                said = "; ".join(found.faults) or found.again
                print(f"{number}/{runs}: {found.signal}, {found.phase}: {said}", file=sys.stderr)
    print(table(cases))
    faults = [(number, each) for number, each in enumerate(cases) if each.faults]
    print(f"\n{len(cases)} kills of seed {seed}, {len(faults)} faults")
    for number, each in faults:
        print(f"kill {number}, {each.signal} in {each.phase}: {'; '.join(each.faults)}")
    print("\n" + "  \n".join(f"{key}: {value}" for key, value in provenance().items()))
    return int(bool(faults))
