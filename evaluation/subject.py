"""An artifact and the data to score it on, opened and checked together."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from artifact.restore import restore
from data.inputs import Inputs, open_inputs
from errors import InputError
from evaluation.score import Score, ScoreFunction, Scoring, Split
from evaluation.ttt.learner import Watch, unwatched
from evaluation.ttt.methods import score_adapting, scoring_function
from evaluation.windows import WindowPlan, evaluate
from kernels import operations
from model.gpt import GPT
from runtime.device import choose, device_type
from runtime.ranks import World
from runtime.run_folder import SETTINGS
from settings import Settings
from settings.load import describe, merge
from settings.options import Given


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
    def open(cls, artifact: Path, given: Given) -> "Subject":
        """Rebuild the network, choose what computes it, map the data.

        Args:
            artifact: the file. If it lies in a run's folder, the run's settings are the defaults.
            given: settings by name, ``data`` among them, as `settings.load.merge` takes them. The
                network's settings come from the artifact.

        Raises:
            InputError: artifact, data and settings are missing, impossible or do not fit together.
        """
        run_settings = artifact.parent / SETTINGS
        of_run = {"config": str(run_settings)} if run_settings.is_file() else {}
        settings = merge({**of_run, **given})
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
        score_fn = scoring_function(model, backends.backend)
        return cls(artifact, settings, inputs, model, backends.backend, score_fn, world)

    @property
    def split(self) -> Split:
        """The validation split, as far as the settings score it."""
        inputs = self.inputs
        return Split(inputs.validation, inputs.byte_table, self.settings.val_max_tokens)

    def score(self, split: Split, stride: int, scoring: Scoring) -> Score:
        """Score by windows; arguments as for `evaluation.windows.evaluate`."""
        return evaluate(self.score_fn, split, WindowPlan.of(self.settings, stride), scoring)

    def adapt(self, split: Split, scoring: Scoring, watch: Watch = unwatched) -> Score:
        """Score by test-time training; as `evaluation.ttt.methods.score_adapting`."""
        return score_adapting(self.model, self.backend, split, self.settings, scoring, watch)


def with_architecture(settings: Settings, model: GPT) -> Settings:
    """Return the settings with the model's architecture in them, checked again."""
    try:
        return Settings(**(settings.model_dump() | model.config.model_dump()))
    except ValidationError as error:
        raise InputError(describe(error)) from None
