"""Train a small GPT, export it as an artifact of at most 16 MB, and score it in bits per byte.

python train.py --preset tiny --data DIR
torchrun --standalone --nproc_per_node=8 train.py --preset seed --data DIR
python train.py --resume RUN
"""

# Imports that need torch are inside functions: --help and refusals come without it.
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command_line
from files import PROJECT
from settings import Settings
from settings.load import merge
from settings.options import NOTHING, Given

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.scoreboard import Scoreboard
    from runtime.device import Backends
    from runtime.progress import Progress
    from runtime.ranks import World
    from runtime.run_folder import RunFolder
    from runtime.startup import Startup
    from swarm.steering import Steering
    from training.trainer import Trainer

    Weights = Mapping[str, Tensor]

app = command_line.program("train.py", Settings.__doc__ or "", "Usage: train.py [OPTIONS]")


def main(arguments: Sequence[str]) -> int:
    """Run; returns the exit code: 0, 1 (over the size limit), 2 (bad input), 128 + a signal."""
    return command_line.run(app, arguments)


@dataclass(frozen=True)
class Rank:
    """One rank's part of a run: what it computes with, and where it reports."""

    settings: Settings
    world: "World"
    backends: "Backends"
    folder: "RunFolder | None"  # rank 0's
    progress: "Progress"
    startup: "Startup"

    def log(self, kind: str, **fields: object) -> None:
        """Add an event to the run's log, on rank 0."""
        if self.folder:
            self.folder.log(kind, **fields)


@dataclass(frozen=True)
class Trained:
    """What training leaves: its place, weights by name that are not live, and numbers."""

    step: int
    elapsed: float
    averaged: "Weights"
    exported: "Weights"  # {}: the live ones
    hessians: "Weights"
    facts: Mapping[str, Any]


@app.default
def run(given: Given = NOTHING) -> int:
    """Read settings and data, then train, export and score; all that it leaves is in a folder."""
    settings = merge(given)
    settings.check(int(os.environ.get("WORLD_SIZE", "1")))

    from data.inputs import open_inputs
    from knowledge.scores import scores_for
    from runtime.startup import Startup
    from swarm.steering import Steering

    startup = Startup()
    inputs = open_inputs(settings.data, settings.tokenizer, settings.vocab_size, settings.bos_id)
    token_scores = scores_for(settings.kg_scores, inputs.tokenizer) if settings.kg_scores else None
    steering = Steering.of(settings)
    startup.done("settings and data")
    with joined(settings, startup) as rank:
        from evaluation.report import conclude
        from evaluation.score import Split
        from evaluation.scoreboard import Scoreboard
        from training.loop import Interruption
        from training.trainer import Trainer

        rank.progress.phase("building the model")
        trainer = Trainer(settings, inputs.train, rank.world, rank.backends, token_scores)
        startup.done("model")
        split = Split(inputs.validation, inputs.byte_table, settings.val_max_tokens)
        scores = Scoreboard(settings, split, rank.world, rank.folder, rank.progress)
        try:
            trained = train(rank, trainer, steering, scores)
        except Interruption as stop:
            if rank.folder:
                script = Path(sys.argv[0]).name
                print(f"{stop}; go on with: {script} --resume {rank.folder.path}", flush=True)
            return 128 + stop.signal_number
        finally:
            trainer.close()
            close_decisions(steering, rank.progress)
        facts = export_and_score(rank, trainer, trained, scores)
        if rank.folder is None:
            return 0
        return conclude(rank.folder, facts, scores, PROJECT, settings.size_limit)


@contextmanager
def joined(settings: Settings, startup: "Startup") -> Iterator[Rank]:
    """Join the ranks and open the run's folder; leave and close them at the end.

    Raises:
        InputError: the device or a backend is not to be had, or the folder is not.
    """
    from runtime.device import choose, device_type
    from runtime.progress import Progress
    from runtime.ranks import World
    from training.resuming import open_folder

    world = World.start(device_type(settings.device))
    folder = None
    limit = settings.wallclock or None
    try:
        backends = choose(settings, world.device)
        folder = open_folder(settings) if world.is_main else None
        startup.done("torch and device")
        with Progress(limit, None if limit else settings.iterations, world.is_main) as progress:
            yield Rank(settings, world, backends, folder, progress, startup)
    finally:
        if folder:
            folder.close()
        world.stop()


def train(
    rank: Rank, trainer: "Trainer", steering: "Steering | None", scores: "Scoreboard"
) -> Trained:
    """Load a checkpoint if the run is resumed, warm up, then step and calibrate within the budget.

    The checkpoint comes first: a damaged one ends the run before it costs GPU time, and warm-up
    leaves no trace in what was loaded.

    Raises:
        Interruption: a signal came; a checkpoint is written.
    """
    from artifact.quantisation.calibration import Calibration
    from training.loop import Loop
    from training.resuming import load_checkpoint
    from training.snapshots import holding
    from training.summary import facts
    from training.warm_up import warm_up

    settings, folder, startup, model = rank.settings, rank.folder, rank.startup, trainer.model
    step, elapsed = 0, 0.0
    if settings.resume:
        step, elapsed = load_checkpoint(settings.resume, trainer, steering, folder)
    if steering and folder:
        steering.log_to(folder.decisions)
    rank.progress.phase("warming up")
    warm_up(trainer, settings.warmup_steps)
    calibration = Calibration(model, trainer.loader, rank.world, settings.calibration_tokens)
    calibration.reserve(settings.wallclock)
    startup.done("warm-up")
    rank.log("startup", **startup.seconds, total=startup.total)

    def validate(_: "Trainer", step: int, elapsed: float) -> float:
        length = settings.eval_seq_len
        return scores.measure(model.score, "raw", "plain", length, step, elapsed).bpb

    reserved = calibration.reserved
    loop = Loop(
        trainer, settings, folder, rank.progress, validate, steering, step, elapsed, reserved
    )
    loop.run()
    found = facts(trainer, loop.step, loop.budget.elapsed())
    rank.progress.phase("calibrating")
    loop.budget.start()
    averaged = trainer.averaging.weights()
    # LAWA has no average before its first snapshot: the live weights are exported then.
    exported = averaged if settings.export_weights == "averaged" else {}
    with holding(model, exported, rank.world):
        hessians = calibration.hessians()
    loop.budget.stop()
    rank.log("calibration", **calibration.facts)
    elapsed = loop.budget.elapsed()
    found |= {"startup_seconds": startup.total, "warm_up_seconds": startup.seconds["warm-up"]}
    found |= {"train_seconds": elapsed, "calibration": calibration.facts}
    return Trained(loop.step, elapsed, averaged, exported, hessians, found)


def export_and_score(
    rank: Rank, trainer: "Trainer", trained: Trained, scores: "Scoreboard"
) -> dict[str, object]:
    """Score the weights as trained, as averaged, and as the artifact gives them back.

    Returns:
        what is known of the run, for its summary.
    """
    from artifact import ROUNDTRIP
    from training.snapshots import holding

    model, world, at = trainer.model, rank.world, (trained.step, trained.elapsed)
    scores.final(model.score, "raw", *at)
    with holding(model, trained.averaged, world):
        if trained.averaged:
            scores.final(model.score, "averaged", *at)
    with holding(model, trained.exported, world):
        roundtrip, report = export(rank, trainer, trained) if rank.folder else ({}, {})
    with holding(model, roundtrip, world):
        scores.final(model.score, ROUNDTRIP, *at)
        scores.adapting(model, rank.backends.backend, ROUNDTRIP, *at)
    kind = "averaged" if trained.exported else "raw"
    return {**trained.facts, "exported_weights": kind, "artifact": report}


def export(rank: Rank, trainer: "Trainer", trained: Trained) -> "tuple[Weights, dict[str, Any]]":
    """Write the artifact; return the weights as it gives them back, and its report."""
    from artifact.export import export, load
    from artifact.quantisation.recipe import Recipe
    from artifact.submission.code_size import code_bytes
    from model.parameters import exported

    assert rank.folder
    rank.progress.phase("exporting the artifact")
    architecture = rank.settings.architecture().model_dump() | {"mtp_num_heads": 0}
    report = export(
        rank.folder.artifact,
        architecture,
        exported(trainer.model),
        Recipe.of(rank.settings),
        trained.hessians,
        max(0, rank.settings.size_limit - sum(code_bytes(PROJECT).values())),
    )
    return load(rank.folder.artifact)[1], asdict(report)


def close_decisions(steering: "Steering | None", progress: "Progress") -> None:
    """Finish the decision log; say what kept it from being written, if anything did."""
    error = steering.close() if steering else None
    if error:
        progress.phase(f"the decision log ends early: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
