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

from data.inputs import Inputs, open_inputs
from errors import InputError
from settings import Settings, load_settings
from swarm.knowledge.scores import BUILT_IN, scores_for
from swarm.steering import Steering
from training.startup import Startup

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from training.progress import Progress
    from training.run_folder import RunFolder
    from training.trainer import Trainer
    from training.world import World

PROJECT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run; returns the exit code: 0, 1 (over the size limit), 2 (bad input), 128 + a signal."""
    startup = Startup()
    try:
        settings = load_settings(arguments)
        settings.accumulation(int(os.environ.get("WORLD_SIZE", "1")))
        inputs = open_inputs(
            settings.data, settings.tokenizer, settings.vocab_size, settings.bos_id
        )
        scores = scores_for(settings.kg_scores, inputs.tokenizer) if settings.kg_scores else None
        steering = Steering.of(settings)
        startup.done("settings and data")
        return run(settings, inputs, scores, steering, startup)
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2


def run(
    settings: Settings,
    inputs: Inputs,
    scores: "np.ndarray | None",
    steering: Steering | None,
    startup: Startup,
) -> int:
    """Train, export, score; everything that a run leaves is in its folder."""
    from training.backends import choose, device_type
    from training.progress import Progress
    from training.world import World

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


def open_folder(settings: Settings) -> "RunFolder":
    """A new run's folder, or the one that is resumed."""
    from training.run_folder import RunFolder

    if settings.resume:
        return RunFolder.reopen(settings.resume)
    kept = settings.model_dump(exclude={"run_dir", "resume", "config"})
    for name in ("data", "tokenizer"):
        kept[name] = kept[name] and str(kept[name].resolve())
    if settings.kg_scores and settings.kg_scores not in BUILT_IN:
        kept["kg_scores"] = str(Path(settings.kg_scores).resolve())
    return RunFolder.create(settings.run_dir, f"{settings.preset}-seed{settings.seed}", kept)


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
        from evaluation.scoreboard import Scoreboard

        self.settings, self.inputs, self.world = settings, inputs, world
        self.knowledge, self.steering = knowledge, steering
        self.folder, self.progress, self.startup = folder, progress, startup
        self.scores = Scoreboard(
            settings, inputs.validation, inputs.byte_table, world, folder, progress
        )
        self.summary: dict[str, object] = {}

    def tell(self) -> int:
        """Train, export, score. Returns the exit code."""
        from training.loop import Interruption
        from training.trainer import Trainer

        self.progress.phase("building the model")
        trainer = Trainer(self.settings, self.inputs.train, self.world, self.knowledge)
        self.startup.done("model")
        try:
            step, elapsed = self.train(trainer)
        except Interruption as stop:
            if self.folder:
                print(f"{stop}; go on with: train.py --resume {self.folder.path}", flush=True)
            return 128 + stop.signal_number
        finally:
            trainer.loader.close()
            self.close_decisions()
        score = trainer.model.score
        self.scores.final(score, "raw", step, elapsed)
        averaged = trainer.averaging.weights()
        with trainer.holding(averaged):
            if averaged:
                self.scores.final(score, "averaged", step, elapsed)
        chosen = averaged if self.settings.export_weights == "averaged" else {}
        # LAWA has no average before its first snapshot: the live weights are exported then.
        self.summary["exported_weights"] = "averaged" if chosen else "raw"
        with trainer.holding(chosen):
            roundtrip = self.export(trainer)
        with trainer.holding(roundtrip):
            self.scores.final(score, "roundtrip", step, elapsed)
            backend = trainer.backends.backend
            self.scores.adapting(trainer.model, backend, "roundtrip", step, elapsed)
        return self.finish()

    def train(self, trainer: "Trainer") -> tuple[int, float]:
        """Take up a checkpoint if there is one, warm up, step until the budget is spent.

        The checkpoint comes first: a damaged one ends the run before it costs GPU time, and warm-up
        leaves no trace in what was loaded.

        Returns:
            steps taken and seconds of training.
        """
        from training.loop import Loop

        step, elapsed = self.resume(trainer)
        if self.steering and self.folder:
            self.steering.log_to(self.folder.decisions)
        self.progress.phase("warming up")
        trainer.warm_up(self.settings.warmup_steps)
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
        )
        loop.run()
        tokens, seconds = loop.step * self.settings.train_batch_tokens, loop.budget.elapsed()
        self.summary |= {
            "backend": trainer.backends.backend,
            "attention": trainer.backends.attention,
            "startup_seconds": self.startup.total,
            "warm_up_seconds": self.startup.seconds["warm-up"],
            "steps": loop.step,
            "tokens": tokens,
            "train_seconds": seconds,
            "step_ms": 1000 * seconds / max(1, loop.step),
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "peak_memory_gib": peak_memory_gib(self.world),
        }
        return loop.step, seconds

    def resume(self, trainer: "Trainer") -> tuple[int, float]:
        """Load the newest checkpoint of a run that goes on; its step and seconds of training."""
        from training import checkpoint

        run = self.settings.resume
        if run is None:
            return 0, 0.0
        path = checkpoint.latest(run / "checkpoints")
        if path is None:
            raise InputError(f"{run} has no checkpoint to go on from; start a new run")
        tensors, state = checkpoint.load(path, self.world.device)
        trainer.load(tensors, state)
        if self.steering and "swarm" in state:
            self.steering.load(state["swarm"])
        if self.folder:
            self.folder.truncate_log(state["step"])
        return state["step"], state["elapsed"]

    def export(self, trainer: "Trainer") -> "Mapping[str, Tensor]":
        """Write the artifact on rank 0; returns the weights as it gives them back."""
        from artifact.export import export, load
        from artifact.quantise import Recipe
        from training.trainer import exported

        if self.folder is None:
            return {}
        self.progress.phase("exporting the artifact")
        architecture = self.settings.architecture().model_dump() | {"mtp_num_heads": 0}
        report = export(
            self.folder.artifact,
            architecture,
            exported(trainer.model),
            Recipe.of(self.settings),
        )
        self.summary["artifact"] = asdict(report)
        return load(self.folder.artifact)[1]

    def close_decisions(self) -> None:
        """Finish the decision log; say what kept it from being written, if anything did."""
        error = self.steering.close() if self.steering else None
        if error:
            self.progress.phase(f"the decision log ends early: {error}")

    def finish(self) -> int:
        """Count bytes, write the summary and the plot, say where everything is."""
        from rich.console import Console

        from artifact.code_size import OverBudget, budget_line, check_total, code_bytes
        from swarm.decision_log import read
        from swarm.report import decisions_table
        from training.plot import plot_run

        if self.folder is None:
            return 0
        files = code_bytes(PROJECT)
        code = sum(files.values())
        artifact = self.folder.artifact.stat().st_size
        limit = self.settings.size_limit
        sizes = {"code_bytes": code, "artifact_bytes": artifact, "total_bytes": code + artifact}
        self.summary |= {**sizes, "size_limit": limit, "scores": self.scores.rows}
        self.summary["code_files"] = files
        self.folder.log("summary", **self.summary)
        self.folder.write_summary(self.summary)
        plot_run(self.folder.log_file, self.folder.plot)
        self.progress.phase("finished")
        print(self.scores.table())
        if self.steering:
            Console().print(decisions_table(list(read(self.folder.decisions))))
        print(budget_line(code, artifact, limit))
        print(f"run folder: {self.folder.path}", flush=True)
        try:
            check_total(code, artifact, limit)
        except OverBudget as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    def validate(self, trainer: "Trainer", step: int, elapsed: float) -> float:
        """The live weights' bpb, in the middle of training."""
        length = self.settings.eval_seq_len
        return self.scores.measure(trainer.model.score, "raw", "plain", length, step, elapsed).bpb


def peak_memory_gib(world: "World") -> float | None:
    """Most memory that tensors took on rank 0's GPU; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if world.device.type == "cuda" else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
