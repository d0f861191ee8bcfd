"""C2, normalised: the probabilities of all tokens sum to one."""

from collections.abc import Callable

import torch
from torch import Tensor

from evaluation.audit.runs import Check
from evaluation.score import ScoreFunction

RULE = "C2 normalised"
SUM_ERROR = 1e-4  # of probabilities


@torch.inference_mode()
def normalisation(
    name: str,
    score_fn: ScoreFunction,
    contexts: Tensor,
    vocab_size: int,
    progress: Callable[[int], None] = lambda done: None,
    at_once: int = 1,
) -> Check:
    """Sum the probabilities of all tokens after every position, in fp64.

    Args:
        name: of the method.
        score_fn: as for `evaluation.windows.evaluate`.
        contexts: (R, T) int32; R * T positions are tried.
        vocab_size: of the tokens.
        progress: called with the number of tokens done.
        at_once: tokens tried in one call, which then has so many times R rows.
    """
    sums = torch.zeros(contexts.shape, dtype=torch.float64, device=contexts.device)
    repeated = contexts.repeat(at_once, 1)
    for first in range(0, vocab_size, at_once):
        tokens = torch.arange(first, first + at_once, dtype=torch.int32, device=contexts.device)
        known = tokens < vocab_size
        rows = (tokens * known).repeat_interleave(len(contexts))[:, None]
        nats = score_fn(repeated, rows.expand_as(repeated).contiguous())
        probabilities = torch.exp(-nats.double()).view(at_once, *contexts.shape)
        sums += (probabilities * known[:, None, None]).sum(0)
        progress(min(first + at_once, vocab_size))
    error = (sums - 1).abs().max().item()
    found = f"{sums.numel()} positions, sums off by {error:.1e} at most ({SUM_ERROR:.0e} allowed)"
    return Check(RULE, name, error <= SUM_ERROR, found)
