"""Steps of the sprint as a run takes them, with loop, loader and log, some at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.shards import TokenStream, shard_name, write_shard
from runtime.device import choose
from runtime.progress import Progress
from runtime.ranks import World
from runtime.run_folder import RunFolder
from settings import Settings
from settings.load import load_settings
from swarm.steering import Steering
from training.loop import Loop
from training.pace import FIRST_STEP, Start
from training.trainer import Trainer
from training.warm_up import warm_up

SHARD_TOKENS = 8 * 2**20
# No clock, so all steps are of the constant phase, whatever the pauses between them.
PRESET = ("--preset", "sprint", "--kg-scores", "wordnet", "--wallclock", "0")


def random_tokens(folder: Path, vocabulary: int) -> TokenStream:
    """Write a training split of random tokens to a folder, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    tokens = draw.integers(vocabulary, size=SHARD_TOKENS, dtype=np.uint16)
    write_shard(folder / shard_name("train", 0), tokens)
    return TokenStream.open(folder, "train", vocabulary)


class Rig:
    """A warmed-up trainer whose loop continues from its last step.

    Attributes:
        settings: of the run.
        step: steps so far.
        elapsed: seconds that they took.

    Args:
        folder: for the tokens, random ones, and the run's log.
        world: this rank's place.
        options: settings over preset ``sprint`` with a knowledge graph, as train.py takes them.
    """

    def __init__(self, folder: Path, world: World, options: Sequence[str] = ()) -> None:
        self.settings: Settings = load_settings([*PRESET, *options], {})
        vocabulary = self.settings.vocab_size
        stream = random_tokens(folder, vocabulary)
        scores = np.random.default_rng(0).random(vocabulary, dtype=np.float32)
        self.trainer = Trainer(
            self.settings, stream, world, choose(self.settings, world.device), scores
        )
        self.folder = None
        if world.is_main:
            self.folder = RunFolder.create(folder / "run", "rig", {"rig": True})
        self.step, self.elapsed = 0, 0.0
        warm_up(self.trainer, self.settings.warmup_steps)

    def steering(self, every: int) -> Steering:
        """Return a swarm of all five agents, with a cycle every ``every`` steps."""
        made = Steering.of(self.settings.model_copy(update={"swarm_every": every}))
        assert made is not None
        return made

    def run(self, steps: int, steering: Steering | None = None) -> float:
        """Return the seconds of further steps, from the first launch to the end of the last."""
        loop = self._loop(self.settings, steering, Start(self.step, self.elapsed))
        loop.steps(steps)
        took, self.elapsed = loop.budget.elapsed() - self.elapsed, loop.budget.elapsed()
        self.step = loop.step
        return took

    def run_out(self, seconds: float) -> None:
        """Run from step 0 until the clock ends the run; the weights go on."""
        self._loop(self.settings.model_copy(update={"wallclock": seconds})).steps()

    def _loop(
        self,
        settings: Settings,
        steering: Steering | None = None,
        start: Start = FIRST_STEP,
    ) -> Loop:
        silent = Progress(None, None, enabled=False)
        return Loop(self.trainer, settings, self.folder, silent, no_validation, steering, start)

    def close(self) -> None:
        """End the loader's thread and the log."""
        self.trainer.close()
        if self.folder:
            self.folder.close()


def no_validation(*_: object) -> float:
    """Validate nothing: the argument of a loop that never validates."""
    return 0.0
