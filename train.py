"""Train a small GPT, export it as an artifact of at most 16 MB, and score it in bits per byte.

python train.py --preset tiny --data DIR
torchrun --standalone --nproc_per_node=8 train.py --preset seed --data DIR
python train.py --resume RUN
python train.py --preset seed --explain
"""

# Imports of what needs torch or numpy are inside functions: --help and refusals come without them.
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import command_line
from errors import InputError
from evaluation.ttt.frozen import check_ttt
from files import PROJECT
from runtime import ROUNDTRIP
from runtime.launch import ranks_of
from runtime.listeners import check_tracker
from runtime.signals import SIGNALS, Interruption
from settings import Settings
from settings.load import merge
from settings.options import NOTHING, Given
from settings.parts import check_parts
from settings.variants import check_variants

if TYPE_CHECKING:
    from torch import Tensor

    from data.inputs import Inputs
    from evaluation.origins import Origins
    from evaluation.scoreboard import Scoreboard
    from swarm.steering import Steering
    from training.finishing import Trained
    from training.rank import Rank
    from training.reference_clock import ReferenceClock
    from training.trainer import Trainer

    Weights = Mapping[str, Tensor]

Flag = Annotated[bool, Parameter(negative=(), group="Parameters", show_default=False)]
app = command_line.program("train.py", Settings.__doc__ or "", "Usage: train.py [OPTIONS]")


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code: 0, 1 (diverged, too large), 2 (bad input), 128 + a signal."""
    with SIGNALS:
        try:
            return command_line.run(app, arguments)
        except Interruption as stop:
            return SIGNALS.leave(stop.signal_number)


@app.default
def run(given: Given = NOTHING, *, explain: Flag = False) -> int:
    """Read settings and inputs, train, export, score, conclude; return the exit code.

    All that a run leaves is in its folder.

    Args:
        given: the settings that the command line gives.
        explain: print visits, parameters, variants and kernels, and stop, without a GPU or data.
    """
    settings = merge(given)
    ranks = ranks_of(os.environ)
    check_variants(settings, ranks)
    check_ttt(settings, ranks)
    if explain:
        command_line.optional("training.explain", "--explain").explain(settings, ranks)
        return 0
    check_tracker(settings.track)
    check_parts(settings)
    from data.inputs import open_inputs
    from evaluation.origins import Origins
    from runtime.startup import Startup
    from swarm.steering import Steering

    startup = Startup()
    startup.done("settings")
    origins = Origins(PROJECT, settings)
    startup.done("hashes of code")
    network, most = settings.vocabulary(), settings.val_max_tokens
    inputs = open_inputs(settings.data, settings.tokenizer, *network, most, startup.done)
    settings = settings.with_vocabulary(inputs.vocab_size, inputs.bos_id)
    token_scores, edges, data = None, None, inputs.fingerprint
    if settings.kg_scores:
        from knowledge.scores import scores_for

        token_scores = scores_for(settings.kg_scores, inputs.tokenizer)
    if settings.num_edges:
        from knowledge.edges import edges_of_run

        edges, data = edges_of_run(settings, inputs)
    steering = Steering.of(settings)
    clock_of(settings, ranks)  # now, because a wrong table must not cost GPU time
    startup.done("knowledge and swarm")
    from training.rank import joined

    startup.done("torch")
    with joined(settings, startup, data) as rank:
        rank.progress.phase("building the model")
        from training.trainer import Trainer

        reads = steering.reads if steering else ()
        known = (token_scores, reads, edges)
        trainer = Trainer(settings, inputs.train, rank.world, rank.backends, *known)
        startup.done("network")
        return train_and_score(rank, trainer, steering, inputs, origins)


def clock_of(settings: Settings, ranks: int) -> "ReferenceClock | None":
    """Return the clock of a run that counts reference milliseconds; None: the wall clock."""
    if not settings.reference_clock:
        return None
    module = command_line.optional("training.reference_clock", "--reference-clock")
    return module.ReferenceClock(settings.reference_clock, settings, ranks)


def train_and_score(
    rank: "Rank",
    trainer: "Trainer",
    steering: "Steering | None",
    inputs: "Inputs",
    origins: "Origins",
) -> int:
    """Train, export, score and conclude on this rank; return the exit code."""
    from evaluation.report import conclude
    from evaluation.score import Split
    from evaluation.scoreboard import Scoreboard
    from training.opening import opening

    settings = rank.settings
    for line in opening(rank, trainer, inputs):
        rank.progress.line(line)
    split = Split(inputs.validation, inputs.byte_table, settings.val_max_tokens)
    scores = Scoreboard(settings, split, rank.world, rank.folder, rank.progress)
    sample = samples_of(rank, trainer, inputs.tokenizer)
    with rank.closing(trainer, steering):
        trained = train(rank, trainer, steering, scores, sample)
    score_trained(trainer, trained, scores)
    roundtrip, artifact = export(rank, trainer, trained)
    score_artifact(trainer, trained, roundtrip, scores)
    observed = origins.facts(rank.world, inputs)
    if rank.folder is None:
        return 0
    facts = {**trained.facts, "artifact": artifact, **observed}
    return conclude(rank.folder, facts, scores, PROJECT, settings.size_limit)


def samples_of(rank: "Rank", trainer: "Trainer", tokenizer: Path) -> "Callable[[int], None] | None":
    """Return what writes texts between steps, on rank 0; None: nothing does."""
    settings = rank.settings
    if not settings.sample_every or rank.folder is None:
        return None
    samples = command_line.optional("evaluation.samples", "--sample-every")
    return samples.Samples(settings, trainer.model, tokenizer, rank.folder, rank.progress)


def train(
    rank: "Rank",
    trainer: "Trainer",
    steering: "Steering | None",
    scores: "Scoreboard",
    sample: "Callable[[int], None] | None",
) -> "Trained":
    """Load a resumed run's checkpoint, warm up, then step and calibrate within the budget.

    The checkpoint comes first: a damaged one ends the run before it costs GPU time, and warm-up
    leaves no trace in what was loaded.

    Raises:
        Interruption: a signal came; if steps were taken, a checkpoint is written.
    """
    from artifact.quantisation.calibration import Calibration
    from training.beginning import begin
    from training.budget import Budget
    from training.choosing import Chooser
    from training.finishing import finish
    from training.loop import Loop
    from training.resuming import load_checkpoint

    settings, folder, model = rank.settings, rank.folder, trainer.model
    clock = clock_of(settings, rank.world.size)
    start = load_checkpoint(settings.resume, trainer, steering, folder)
    rank.startup.done("checkpoint")
    rank.log_decisions(steering)
    wanted = settings.calibration_tokens, settings.quant_by_loss
    calibration = Calibration(model, trainer.loader, rank.world, *wanted)
    chooser = Chooser(trainer)
    if start.trained:
        rank.progress.line(f"all {start.step} steps are taken: finishing")
    else:
        start = begin(rank, trainer, start, clock, calibration, chooser)
    validate = partial(scores.validate, model.score)
    reserved = calibration.reserved + chooser.reserved
    limits = settings.wallclock, settings.iterations, start.elapsed, reserved
    budget = clock.budget(*limits) if clock else Budget(*limits)
    more = (steering, start, budget, sample)
    loop = Loop(trainer, settings, folder, rank.progress, validate, *more)
    rank.started()
    loop.run()
    return finish(rank, loop, calibration, chooser)


def score_trained(trainer: "Trainer", trained: "Trained", scores: "Scoreboard") -> None:
    """Score the live weights, and their averages if there are any."""
    from training.snapshots import holding

    score, at = trainer.model.score, (trained.step, trained.elapsed)
    scores.final(score, "raw", *at)
    with holding(trainer.model, trained.averaged, trainer.world):
        if trained.averaged:
            scores.final(score, "averaged", *at)


def export(
    rank: "Rank", trainer: "Trainer", trained: "Trained"
) -> "tuple[Weights, dict[str, object]]":
    """Write the artifact on rank 0; return the weights read back from it, and its report."""
    from artifact.export import export_run
    from model.parameters import stored
    from training.snapshots import holding

    with holding(trainer.model, trained.exported, rank.world):
        if rank.folder is None:
            return {}, {}
        rank.progress.phase("exporting the artifact")
        path, weights = rank.folder.artifact, stored(trainer.model)
        try:
            roundtrip, report = export_run(path, rank.settings, weights, trained.hessians, PROJECT)
        except OSError as error:
            left = rank.folder.going_on()
            raise InputError(f"no {path}: {error.strerror}; make room; {left}") from error
    return roundtrip, asdict(report)


def score_artifact(
    trainer: "Trainer", trained: "Trained", roundtrip: "Weights", scores: "Scoreboard"
) -> None:
    """Score the artifact's weights by windows, and by test-time training if it is enabled."""
    from training.snapshots import holding

    model, at = trainer.model, (trained.step, trained.elapsed)
    with holding(model, roundtrip, trainer.world):
        scores.final(model.score, ROUNDTRIP, *at)
        scores.adapting(model, trainer.backends.backend, ROUNDTRIP, *at)


if __name__ == "__main__":
    with SIGNALS:  # until the process has ended
        command_line.end(main)
