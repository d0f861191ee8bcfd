"""What a command of ``python -m evaluation`` works on, opened and checked together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from artifact.restore import restore
from data.inputs import Inputs, open_inputs
from errors import InputError
from evaluation.score import Record, Score, ScoreFunction, Tokens
from evaluation.ttt.methods import Watch, score_adapting, scoring
from evaluation.windows import evaluate
from kernels import operations
from model.gpt import GPT
from runtime.device import choose, device_type
from runtime.ranks import World
from runtime.run_folder import SETTINGS
from settings import Settings
from settings.load import describe, load_settings


@dataclass(frozen=True)
class Subject:
    """An artifact's network on its backend, and the data to score.

    Attributes:
        score_fn: scores windows, compiled where the backend is.
    """

    artifact: Path
    settings: Settings
    inputs: Inputs
    model: GPT
    backend: str
    score_fn: ScoreFunction
    world: World

    @classmethod
    def open(cls, artifact: Path, arguments: Sequence[str]) -> "Subject":
        """Rebuild the network, choose what computes it, map the data.

        Args:
            artifact: the file. The settings of the run folder that it lies in are taken up.
            arguments: settings as train.py takes them on its command line, ``--data`` among them;
                what describes the network is the artifact's.

        Raises:
            InputError: artifact, data and settings are missing, impossible or do not fit together.
        """
        beside = artifact.parent / SETTINGS
        of_run = ["--config", str(beside)] if beside.is_file() else []
        settings = load_settings([*of_run, *arguments])
        world = World.start(device_type(settings.device))
        try:
            model = restore(artifact, settings.eval_seq_len, world.device)
            settings = with_architecture(settings, model)
            backends = choose(settings, world.device)
            model.ops = operations(backends.backend, backends.attention)
            model.dtype = backends.dtype
            inputs = open_inputs(
                settings.data, settings.tokenizer, settings.vocab_size, settings.bos_id
            )
        except InputError:
            world.stop()
            raise
        score_fn = scoring(model, backends.backend)
        return cls(artifact, settings, inputs, model, backends.backend, score_fn, world)

    def score(
        self,
        stream: Tokens,
        stride: int,
        progress: Callable[[int, int], None] | None = None,
        record: Record | None = None,
    ) -> Score:
        """By windows; arguments as for `evaluation.windows.evaluate`."""
        settings = self.settings
        return evaluate(
            self.score_fn,
            stream,
            self.inputs.byte_table,
            seq_len=settings.eval_seq_len,
            stride=stride,
            batch_windows=max(1, settings.val_batch_size // settings.eval_seq_len),
            world=self.world,
            max_tokens=settings.val_max_tokens,
            progress=progress,
            record=record,
        )

    def adapt(
        self,
        stream: Tokens,
        progress: Callable[[int, int], None] | None = None,
        record: Record | None = None,
        watch: Watch = lambda learner: learner,
    ) -> Score:
        """By test-time training; arguments as for `evaluation.ttt.methods.score_adapting`."""
        return score_adapting(
            self.model,
            self.backend,
            stream,
            self.inputs.byte_table,
            self.settings,
            world=self.world,
            max_tokens=self.settings.val_max_tokens,
            progress=progress,
            record=record,
            watch=watch,
        )


def with_architecture(settings: Settings, model: GPT) -> Settings:
    """The settings with the model's own network in them, checked again."""
    try:
        return Settings(**(settings.model_dump() | model.config.model_dump()))
    except ValidationError as error:
        raise InputError(describe(error)) from None
