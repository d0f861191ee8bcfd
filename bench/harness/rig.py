"""Steps of the sprint as a run takes them, with loop, loader and log, some at a time."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.shards import SPLITS, Split, TokenStream, shard_name, write_shard
from data.tokenizer import BYTE_PAIRS_NAME
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
BOS = 1
DOCUMENT = 1024  # mean tokens of a document
# No clock, so all steps are of the constant phase, whatever the pauses between them.
PRESET = ("--preset", "sprint", "--kg-scores", "wordnet", "--wallclock", "0")


def random_tokens(
    folder: Path, vocabulary: int, bos_id: int | None = None, split: Split = "train"
) -> TokenStream:
    """Write a split of random tokens to a folder, and open it.

    Args:
        folder: for the shard.
        vocabulary: number of token ids.
        bos_id: of documents of at most ``DOCUMENT`` tokens in the mean; None: as it comes.
        split: which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    tokens = draw.integers(vocabulary, size=SHARD_TOKENS, dtype=np.uint16)
    if bos_id is not None and vocabulary > DOCUMENT:
        tokens[draw.random(SHARD_TOKENS) < 1 / DOCUMENT - 1 / vocabulary] = bos_id
    write_shard(folder / shard_name(split, 0), tokens)
    return TokenStream.open(folder, split, vocabulary)


def random_data(folder: Path, vocabulary: int) -> Path:
    """Write a data folder of random tokens with a tokenizer; return it.

    Args:
        folder: for shards and tokenizer.
        vocabulary: number of token ids: BOS, those of one byte, and others of two.
    """
    for split in SPLITS:
        random_tokens(folder, vocabulary, BOS, split)
    texts = [bytes([each]) for each in range(256)]
    texts += [each.to_bytes(2, "big") for each in range(vocabulary - 1 - len(texts))]
    tokens: list[str | None] = [base64.b64encode(text).decode() for text in texts]
    tokens.insert(BOS, None)
    stored = {"name": "random", "pattern": ".", "bos": BOS, "special": {}, "tokens": tokens}
    (folder / BYTE_PAIRS_NAME).write_text(json.dumps(stored), encoding="utf-8")
    return folder


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
        trainer: what takes the steps.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        options: Sequence[str] = (),
        trainer: type[Trainer] = Trainer,
    ) -> None:
        self.settings: Settings = load_settings([*PRESET, *options], {})
        vocabulary = self.settings.vocab_size
        stream = random_tokens(folder, vocabulary, self.settings.bos_id)
        scores = np.random.default_rng(0).random(vocabulary, dtype=np.float32)
        self.trainer = trainer(
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
