"""What is refused before the first run of a series starts."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from bench.harness.record import check_out
from data.inputs import open_inputs
from evaluation.ttt.frozen import check_ttt
from knowledge.edges import edges_of_run
from knowledge.scores import scores_for
from settings import Settings
from settings.load import load_settings
from settings.variants import check_variants
from swarm.steering import Steering
from training.reference_clock import ReferenceClock

opened = lru_cache(maxsize=8)(open_inputs)  # runs of a series share their data


def check_series(commands: Iterable[Sequence[str]], *out: Path | None) -> None:
    """Refuse a series of which a run could not start, or whose results could not be written.

    Args:
        commands: options of train.py, of each run.
        out: files for results, if any.

    Raises:
        InputError: as train.py, for the first such run; or a file cannot be written.
    """
    check_out(*out)
    for command in commands:
        check_run(load_settings(command))


def check_run(settings: Settings) -> None:
    """Refuse what train.py refuses of a run on one GPU before it builds the model.

    A log to obey is not read, because the series itself may be to write it.
    """
    check_variants(settings, 1)
    check_ttt(settings, 1)
    asked = settings.data, settings.tokenizer, *settings.vocabulary()
    inputs = opened(*asked, settings.val_max_tokens)
    settings = settings.with_vocabulary(inputs.vocab_size, inputs.bos_id)
    if settings.kg_scores:
        scores_for(settings.kg_scores, inputs.tokenizer)
    if settings.num_edges:
        edges_of_run(settings, inputs)
    if not settings.swarm_yoke:
        Steering.of(settings)
    check_clock(settings)


def check_clock(settings: Settings) -> None:
    """Refuse a reference clock's table that lacks a step of a run on one GPU."""
    if settings.reference_clock and not settings.asks_tokenizer:
        ReferenceClock(settings.reference_clock, settings, 1)
