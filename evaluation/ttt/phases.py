"""Adapters of each document, in turns with SGD on all weights if the method is both.

A phase is the documents that begin in a chunk of the split. Each of them is scored with its own
adapters. Then the weights are trained on all tokens so far that they have not learned, and the
adapters' first matrices become the mean of what the documents made of them.
"""

import math

import torch

from evaluation.score import Score, Scoring, Split, Tally, Tokens
from evaluation.ttt.documents import Document, DocumentPlan, find_documents, score_documents
from evaluation.ttt.learner import Watch
from evaluation.ttt.lora import document_adapters
from evaluation.ttt.sgd import WeightLearner, chunk_windows, cosine
from evaluation.ttt.tilt import Hints
from evaluation.windows import WindowPlan, cut
from model.gpt import GPT
from runtime.graphs import Graphs
from settings import Settings


def phases(documents: list[Document], chunk_tokens: int) -> dict[int, list[Document]]:
    """Return the documents by the chunk of the split in which they begin."""
    found: dict[int, list[Document]] = {}
    for document in documents:
        found.setdefault(document.first // chunk_tokens, []).append(document)
    return found


def hints_of(
    some: list[Document], stream: Tokens, settings: Settings, device: torch.device
) -> Hints | None:
    """Return the hints of a phase's documents by all earlier phases, if scores are tilted."""
    if not settings.ttt_tilt:
        return None
    return Hints(stream, some[0].first, [document.targets for document in some], device)


def score_phases(
    model: GPT,
    weights: WeightLearner | None,
    split: Split,
    settings: Settings,
    scoring: Scoring,
    watch: Watch,
    graphs: Graphs | None,
) -> Score:
    """Score a split in phases; both learn only what is scored.

    Args:
        model: the network.
        weights: the learner of its weights; None: they stay, and there is one phase.
        split, settings, scoring, watch: as for `evaluation.ttt.methods.score_adapting`;
            ``progress`` counts chunks.
        graphs: as for ``document_adapters``.

    Raises:
        InputError: as `evaluation.windows.evaluate`.
    """
    length, world = settings.eval_seq_len, scoring.world
    targets = cut(split, WindowPlan.of(settings)).targets
    plan, tally, learned = DocumentPlan.of(settings), Tally(split, scoring), 0
    watched = watch(weights) if weights else None
    size = settings.ttt_chunk_tokens if weights else targets
    documents = find_documents(split.stream, targets, settings.bos_id)
    chunks = math.ceil(targets / size)
    with document_adapters(model, settings, world, graphs) as adapters:
        learner = watch(adapters)
        for chunk, some in phases(documents, size).items():
            hints = hints_of(some, split.stream, settings, world.device)
            score_documents(adapters, learner, split.stream, some, plan, tally, hints)
            if weights and watched and some[-1].last < targets:
                adapters.warm()
                step = length * weights.batch
                new = (some[-1].last - learned) // step * step
                if new:
                    rows = chunk_windows(split.stream, learned, new, length, world.device)
                    with weights.required():
                        watched.update(*rows, cosine(chunk, chunks))
                learned += new
            if scoring.progress:
                scoring.progress(chunk + 1, chunks)
    return tally.score()
