"""Train a small GPT, export it as an artifact of at most 16 MB, and score it in bits per byte.

python train.py --preset tiny --data DIR
torchrun --standalone --nproc_per_node=8 train.py --preset seed --data DIR
python train.py --resume RUN
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import command_line
from data.inputs import Inputs, open_inputs
from files import PROJECT
from knowledge.scores import scores_for
from runtime.startup import Startup
from settings import Settings
from settings.load import merge
from settings.options import NOTHING, Given
from swarm.steering import Steering

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from runtime.progress import Progress
    from runtime.ranks import World
    from runtime.run_folder import RunFolder
    from training.trainer import Trainer


app = command_line.program("train.py", Settings.__doc__ or "")


def main(arguments: list[str]) -> int:
    """Run; returns the exit code: 0, 1 (over the size limit), 2 (bad input), 128 + a signal."""
    return command_line.run(app, arguments)


@app.default
def start(given: Given = NOTHING) -> int:
    """Read settings and data, then run."""
    startup = Startup()
    settings = merge(given)
    settings.check(int(os.environ.get("WORLD_SIZE", "1")))
    inputs = open_inputs(settings.data, settings.tokenizer, settings.vocab_size, settings.bos_id)
    scores = scores_for(settings.kg_scores, inputs.tokenizer) if settings.kg_scores else None
    steering = Steering.of(settings)
    startup.done("settings and data")
    return run(settings, inputs, scores, steering, startup)


def run(
    settings: Settings,
    inputs: Inputs,
    scores: "np.ndarray | None",
    steering: Steering | None,
    startup: Startup,
) -> int:
    """Train, export, score; everything that a run leaves is in its folder."""
    from runtime.device import choose, device_type
    from runtime.progress import Progress
    from runtime.ranks import World
    from training.resuming import open_folder

    world = World.start(device_type(settings.device))
    folder = None
    limit = settings.wallclock or None
    try:
        choose(settings, world.device)  # what cannot be had is refused before there is a folder
        folder = open_folder(settings) if world.is_main else None
        startup.done("torch and device")
        with Progress(limit, None if limit else settings.iterations, world.is_main) as progress:
            story = Run(settings, inputs, scores, steering, world, folder, progress, startup)
            return story.tell()
    finally:
        if folder:
            folder.close()
        world.stop()


class Run:
    """One run on one rank: its story, in order."""

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        knowledge: "np.ndarray | None",
        steering: Steering | None,
        world: "World",
        folder: "RunFolder | None",
        progress: "Progress",
        startup: Startup,
    ) -> None:
        from evaluation.score import Split
        from evaluation.scoreboard import Scoreboard

        self.settings, self.inputs, self.world = settings, inputs, world
        self.knowledge, self.steering = knowledge, steering
        self.folder, self.progress, self.startup = folder, progress, startup
        split = Split(inputs.validation, inputs.byte_table, settings.val_max_tokens)
        self.scores = Scoreboard(settings, split, world, folder, progress)
        self.hessians: Mapping[str, Tensor] = {}
        self.summary: dict[str, object] = {}

    def tell(self) -> int:
        """Train, export, score. Returns the exit code."""
        from evaluation.report import conclude
        from training.loop import Interruption
        from training.trainer import Trainer

        self.progress.phase("building the model")
        trainer = Trainer(self.settings, self.inputs.train, self.world, self.knowledge)
        self.startup.done("model")
        try:
            step, elapsed = self.train(trainer)
        except Interruption as stop:
            if self.folder:
                script = Path(sys.argv[0]).name
                print(f"{stop}; go on with: {script} --resume {self.folder.path}", flush=True)
            return 128 + stop.signal_number
        finally:
            trainer.close()
            self.close_decisions()
        self.score(trainer, step, elapsed)
        if self.folder is None:
            return 0
        limit = self.settings.size_limit
        return conclude(self.folder, self.summary, self.scores, PROJECT, limit)

    def train(self, trainer: "Trainer") -> tuple[int, float]:
        """Take up a checkpoint if there is one, warm up, step and calibrate until the budget is
        spent.

        The checkpoint comes first: a damaged one ends the run before it costs GPU time, and warm-up
        leaves no trace in what was loaded.

        Returns:
            steps taken and seconds of training.
        """
        from artifact.quantisation.calibration import Calibration
        from training.loop import Loop
        from training.resuming import load_checkpoint
        from training.snapshots import holding
        from training.summary import facts
        from training.warm_up import warm_up

        resumed, step, elapsed = self.settings.resume, 0, 0.0
        if resumed:
            step, elapsed = load_checkpoint(resumed, trainer, self.steering, self.folder)
        if self.steering and self.folder:
            self.steering.log_to(self.folder.decisions)
        self.progress.phase("warming up")
        warm_up(trainer, self.settings.warmup_steps)
        tokens = self.settings.calibration_tokens
        calibration = Calibration(trainer.model, trainer.loader, self.world, tokens)
        calibration.reserve(self.settings.wallclock)
        self.startup.done("warm-up")
        if self.folder:
            self.folder.log("startup", **self.startup.seconds, total=self.startup.total)
        loop = Loop(
            trainer,
            self.settings,
            self.folder,
            self.progress,
            self.validate,
            self.steering,
            step,
            elapsed,
            calibration.reserved,
        )
        loop.run()
        self.summary |= facts(trainer, loop.step, loop.budget.elapsed())
        self.summary["startup_seconds"] = self.startup.total
        self.summary["warm_up_seconds"] = self.startup.seconds["warm-up"]
        self.progress.phase("calibrating")
        loop.budget.start()
        chosen = self.chosen(trainer.averaging.weights())
        with holding(trainer.model, chosen, self.world):
            self.hessians = calibration.hessians()
        loop.budget.stop()
        self.summary |= {"train_seconds": loop.budget.elapsed(), "calibration": calibration.facts}
        if self.folder:
            self.folder.log("calibration", **calibration.facts)
        return loop.step, loop.budget.elapsed()

    def chosen(self, averaged: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
        """The weights to export, by name, where they are not the live ones.

        LAWA has no average before its first snapshot: the live weights are exported then.
        """
        return averaged if self.settings.export_weights == "averaged" else {}

    def score(self, trainer: "Trainer", step: int, elapsed: float) -> None:
        """Score the weights as trained, as averaged, and as the artifact gives them back."""
        from training.snapshots import holding

        model, score = trainer.model, trainer.model.score
        self.scores.final(score, "raw", step, elapsed)
        averaged = trainer.averaging.weights()
        with holding(model, averaged, self.world):
            if averaged:
                self.scores.final(score, "averaged", step, elapsed)
        chosen = self.chosen(averaged)
        self.summary["exported_weights"] = "averaged" if chosen else "raw"
        with holding(model, chosen, self.world):
            roundtrip = self.export(trainer)
        with holding(model, roundtrip, self.world):
            self.scores.final(score, "roundtrip", step, elapsed)
            backend = trainer.backends.backend
            self.scores.adapting(model, backend, "roundtrip", step, elapsed)

    def export(self, trainer: "Trainer") -> "Mapping[str, Tensor]":
        """Write the artifact on rank 0; returns the weights as it gives them back."""
        from artifact.export import export, load
        from artifact.quantisation.recipe import Recipe
        from artifact.submission.code_size import code_bytes
        from model.parameters import exported

        if self.folder is None:
            return {}
        self.progress.phase("exporting the artifact")
        architecture = self.settings.architecture().model_dump() | {"mtp_num_heads": 0}
        report = export(
            self.folder.artifact,
            architecture,
            exported(trainer.model),
            Recipe.of(self.settings),
            self.hessians,
            max(0, self.settings.size_limit - sum(code_bytes(PROJECT).values())),
        )
        self.summary["artifact"] = asdict(report)
        return load(self.folder.artifact)[1]

    def close_decisions(self) -> None:
        """Finish the decision log; say what kept it from being written, if anything did."""
        error = self.steering.close() if self.steering else None
        if error:
            self.progress.phase(f"the decision log ends early: {error}")

    def validate(self, trainer: "Trainer", step: int, elapsed: float) -> float:
        """The live weights' bpb, in the middle of training."""
        length = self.settings.eval_seq_len
        return self.scores.measure(trainer.model.score, "raw", "plain", length, step, elapsed).bpb


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
