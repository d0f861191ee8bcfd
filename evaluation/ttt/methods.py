"""Test-time training by the method that the settings name."""

import torch
from torch import Tensor

from evaluation.score import Score, ScoreFunction, Scoring, Split
from evaluation.ttt.learner import Watch, unwatched
from evaluation.ttt.phases import score_phases
from evaluation.ttt.sgd import learning_weights, score_first
from evaluation.windows import WindowPlan
from model.gpt import GPT
from runtime.graphs import Graphs
from settings import Settings


def scoring_function(model: GPT, backend: str) -> ScoreFunction:
    """Return what scores windows: ``model.score``, compiled if the backend is ``compiled``."""
    return torch.compile(model.score, dynamic=False) if backend == "compiled" else model.score


def compiled_first(score_fn: ScoreFunction, graphs: Graphs) -> ScoreFunction:
    """Return what scores the same, and compiles the kernels of new shapes in parallel first."""
    known: set[tuple[torch.Size, torch.Size]] = set()

    def score(inputs: Tensor, targets: Tensor) -> Tensor:
        shapes = inputs.shape, targets.shape
        if shapes not in known:
            known.add(shapes)
            graphs.compile(lambda: score_fn(inputs, targets))
        return score_fn(inputs, targets)

    return score


def score_adapting(
    model: GPT,
    backend: str,
    split: Split,
    settings: Settings,
    scoring: Scoring,
    watch: Watch = unwatched,
) -> Score:
    """Score a split by score-first test-time training; the model is restored bit for bit.

    Args:
        model: on the device of ``scoring.world``.
        backend: that the model computes with; adapters are never compiled.
        split: what to score.
        settings: ``ttt_*``, and the windows of the evaluation.
        scoring: as for `evaluation.windows.evaluate`; the method says what ``progress`` counts.
        watch: wraps each learner, as the audit does; adapters come last.

    Raises:
        InputError: the split or the settings are impossible for the network and the ranks.
    """
    plan, world = WindowPlan.of(settings), scoring.world
    graphs = Graphs.of(backend, world.device)
    if settings.ttt_method == "lora":
        return score_phases(model, None, split, settings, scoring, watch, graphs)
    with learning_weights(model, backend, settings, plan.seq_len, world) as weights:
        if settings.ttt_method == "both":
            return score_phases(model, weights, split, settings, scoring, watch, graphs)
        score_fn, chunk = scoring_function(model, backend), settings.ttt_chunk_tokens
        if graphs:
            score_fn = compiled_first(score_fn, graphs)
        return score_first(score_fn, watch(weights), split, plan, chunk, scoring)
