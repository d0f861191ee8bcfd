"""An artifact and the data to score it on, opened and checked together."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from artifact.restore import restore
from data.inputs import Scored, open_scored
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError
from evaluation.score import Score, ScoreFunction, Scoring, Split
from evaluation.ttt.frozen import check_ttt
from evaluation.ttt.learner import Watch, unwatched
from evaluation.ttt.methods import score_adapting, scoring_function
from evaluation.windows import WindowPlan, evaluate
from kernels import operations
from model.gpt import GPT
from reading.structured import read_toml
from runtime.device import choose, device_type
from runtime.ranks import World
from runtime.records import REMEDY, SETTINGS, SUMMARY, tokenizer_of
from settings import Settings
from settings.evaluation import EvaluationSettings
from settings.load import describe, merge
from settings.options import Given
from settings.ttt import TttSettings

# How a run evaluates: all that is taken from the folder that an artifact lies in.
METHOD = {*EvaluationSettings.model_fields, *TttSettings.model_fields} - {"val_max_tokens"}
METHOD |= {"dtype", "backend", "attention_backend"}
MOST_WINDOW = 1 << 20


@dataclass(frozen=True)
class Subject:
    """An artifact's network on its backend, and the data to score.

    Attributes:
        score_fn: scores windows, compiled where the backend is.
    """

    artifact: Path
    settings: Settings
    inputs: Scored
    model: GPT
    backend: str
    score_fn: ScoreFunction
    world: World

    @classmethod
    def open(cls, artifact: Path, given: Given) -> "Subject":
        """Rebuild the network, choose what computes it, map the validation split.

        Args:
            artifact: the file. If it lies in a run's folder, the run's settings of `METHOD`
                are the defaults.
            given: settings by name, ``data`` among them, as `settings.load.merge` takes them. The
                network's settings come from the artifact.

        Raises:
            InputError: artifact, data and settings are missing, impossible or do not fit together.
        """
        settings = method_of(artifact, given)
        world = World.start(device_type(settings.device))
        try:
            settings, model, backend = network_of(artifact, settings, world)
            inputs = open_scored(
                settings.data, settings.tokenizer, settings.vocab_size, settings.bos_id
            )
            check_tokenizer(artifact, read_tokenizer(inputs.tokenizer))
        except InputError:
            world.stop()
            raise
        score_fn = scoring_function(model, backend)
        return cls(artifact, settings, inputs, model, backend, score_fn, world)

    def sources(self) -> str:
        """Return one line that says where tokenizer, limit and method come from."""
        return sources(self.artifact, self.settings, self.inputs)

    def doubt(self) -> str:
        """Return one line if nothing says which tokenizer the network knows; otherwise nothing."""
        if tokenizer_of(self.artifact.parent):
            return ""
        return (
            f"warning: {self.artifact} lies in no finished run's folder: a tokenizer that it was "
            "not trained with gives a score without meaning"
        )

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


def check_tokenizer(artifact: Path, tokenizer: AnyTokenizer) -> None:
    """Refuse another tokenizer than that of the run in whose folder an artifact lies.

    Raises:
        InputError: it is another, perhaps of equal size; or the run's summary is damaged.
    """
    if tokenizer_of(artifact.parent) not in ("", tokenizer.sha256):
        raise InputError(
            f"{tokenizer.path}: not the tokenizer that {artifact} was trained with, by SHA-256 in "
            f"its run's {SUMMARY}; give that one's --data or --tokenizer"
        )


def sources(artifact: Path, settings: Settings, inputs: Scored) -> str:
    """Return one line that says where tokenizer, limit and method come from."""
    of_folder = settings.tokenizer is None
    tokenizer = f"tokenizer {inputs.tokenizer} ({'of the data' if of_folder else 'given'}"
    tokenizer += ", as its manifest records)" if inputs.verified else ", no manifest to check)"
    every = len(inputs.validation) - 1
    most = min(every, settings.val_max_tokens or every)
    method = artifact.parent / SETTINGS if method_of_run(artifact) else "given"
    return f"{tokenizer}; {most:,} of {every:,} tokens; method {method}"


def network_of(artifact: Path, settings: Settings, world: World) -> tuple[Settings, GPT, str]:
    """Return the settings with an artifact's architecture, its network, and what computes it.

    Raises:
        InputError: it is no artifact, or does not fit the settings or the device.
    """
    model = restore(artifact, settings.eval_seq_len, world.device)
    settings = with_architecture(settings, model)
    check_ttt(settings, world.size)
    backends = choose(settings, world.device)
    model.ops = operations(backends.backend, backends.attention)
    model.dtype = backends.dtype
    return settings, model, backends.backend


def method_of(artifact: Path, given: Given) -> Settings:
    """Return the settings of an evaluation: those given, and beneath them those of the run.

    Raises:
        InputError: they are impossible.
    """
    settings = merge(given, beneath=method_of_run(artifact))
    if settings.eval_seq_len > MOST_WINDOW:
        raise InputError(f"eval_seq_len {settings.eval_seq_len}: give {MOST_WINDOW} or less")
    return settings


def method_of_run(artifact: Path) -> dict[str, object]:
    """Return the settings of `METHOD` from the run's folder that an artifact lies in, if any.

    Everything else is the judge's: a run's own tokenizer may count more bytes than the text has,
    and its own limits may leave out what is hard to predict.

    Raises:
        InputError: the folder's settings are a link, or no TOML.
    """
    return settings_of_run(artifact, METHOD)


def settings_of_run(artifact: Path, names: Collection[str]) -> dict[str, object]:
    """Return some settings from the run's folder that an artifact lies in; raises as above."""
    beside = artifact.parent / SETTINGS
    if not beside.exists() and not beside.is_symlink():
        return {}
    found = read_toml(beside, REMEDY, links=False)
    return {name: value for name, value in found.items() if name in names}


def with_architecture(settings: Settings, model: GPT) -> Settings:
    """Return the settings with the model's architecture in them, checked again."""
    try:
        return Settings(**(settings.model_dump() | model.config.model_dump()))
    except ValidationError as error:
        raise InputError(describe(error)) from None
