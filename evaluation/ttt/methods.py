"""Test-time training as the settings ask for it: the one door to both methods."""

from collections.abc import Callable

import torch

from data.tokenizer import ByteTable
from evaluation.score import Record, Score, ScoreFunction, Tokens
from evaluation.ttt.adapters import document_adapters
from evaluation.ttt.documents import score_documents
from evaluation.ttt.weights import Learner, learning_weights, score_first
from model.gpt import GPT
from runtime.ranks import World
from settings import Settings

Watch = Callable[[Learner], Learner]


def scoring(model: GPT, backend: str) -> ScoreFunction:
    """What scores windows with the model: itself, or what ``compiled`` makes of it."""
    return torch.compile(model.score, dynamic=False) if backend == "compiled" else model.score


def score_adapting(
    model: GPT,
    backend: str,
    stream: Tokens,
    byte_table: ByteTable,
    settings: Settings,
    *,
    world: World,
    max_tokens: int = 0,
    progress: Callable[[int, int], None] | None = None,
    record: Record | None = None,
    watch: Watch = lambda learner: learner,
) -> Score:
    """Score a split by score-first test-time training; the model is left as it was, bit for bit.

    Args:
        model: on ``world.device``.
        backend: that the model computes with; adapters are never compiled.
        stream, byte_table, world, max_tokens, progress, record: as for
            `evaluation.windows.evaluate`.
        settings: ``ttt_*``, and the windows of the evaluation.
        watch: puts something between the method and what learns, as the audit does.

    Raises:
        InputError: the split or the settings are impossible for the network and the ranks.
    """
    split = {"world": world, "max_tokens": max_tokens, "progress": progress, "record": record}
    if settings.ttt_method == "lora":
        with document_adapters(model, settings, world.device) as adapters:
            learner = watch(adapters)
            return score_documents(
                model.score, learner, adapters.reset, stream, byte_table, settings, **split
            )
    with learning_weights(model, backend, settings, world) as weights:
        score_fn = scoring(model, backend)
        return score_first(score_fn, watch(weights), stream, byte_table, settings, **split)
