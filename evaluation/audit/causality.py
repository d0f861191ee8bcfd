"""C1, causal: changing the tokens after a position moves no score up to it."""

from collections.abc import Callable, Sequence

import numpy as np

from evaluation.audit.runs import Baseline, Check, largest

RULE = "C1 causal"


def causality(
    name: str,
    baseline: Baseline,
    cuts: Sequence[int],
    vocab_size: int,
    bos_id: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Check:
    """Change every token after each cut; after every other cut a document begins.

    Args:
        name: of the method.
        baseline: its runs over the unchanged text.
        cuts: positions after which tokens change, each before the last.
        vocab_size: of the tokens.
        bos_id: the token that begins a document.
        progress: called with the number of cuts done.
    """
    if baseline.fault:
        return Check(RULE, name, False, baseline.fault)
    draw = np.random.default_rng(0)
    farthest = 0.0
    for done, cut in enumerate(cuts, start=1):
        tokens = changed_after(baseline.tokens, cut, vocab_size, draw)
        if done % 2 and baseline.tokens[cut + 1] != bos_id:
            tokens[cut + 1] = bos_id
        moved = baseline.moved(baseline.scores(tokens))
        fault = fault_of_cut(moved, cut, baseline.allowed)
        if fault:
            return Check(RULE, name, False, fault)
        farthest = max(farthest, largest(moved[1 : cut + 1]))
        progress(done)
    allowed = baseline.allowed.max()
    found = f"{len(cuts)} cuts, moved {farthest:.1e} of {allowed:.0e} nats at most"
    return Check(RULE, name, True, found)


def fault_of_cut(moved: np.ndarray, cut: int, allowed: np.ndarray) -> str:
    """Say how scores (targets + 1,) that ``moved`` break the rule; empty if they keep it."""
    before, after = moved[1 : cut + 1], moved[cut + 1 :]
    still = before <= allowed[1 : cut + 1]  # false of NaN
    if not still.all():
        index = int(np.flatnonzero(~still)[0])
        return f"target {1 + index} moved by {before[index]:.1e} nats with the tokens after {cut}"
    if not largest(after - allowed[cut + 1 :]) > 0:
        return f"no score after {cut} read the changed tokens"
    return ""


def changed_after(
    tokens: np.ndarray, cut: int, vocab_size: int, draw: np.random.Generator
) -> np.ndarray:
    """Return a copy in which every token after position ``cut`` is another one."""
    altered = tokens.copy()
    tail = altered[cut + 1 :].astype(np.int64)
    altered[cut + 1 :] = (tail + draw.integers(1, vocab_size, len(tail))) % vocab_size
    return altered


def choose_cuts(tokens: np.ndarray, bos_id: int, chunk: int, count: int) -> list[int]:
    """Return ``count`` positions at which to change the text, in order.

    At most half are next to the beginnings of documents and chunks; the others are random.
    """
    last = len(tokens) - 2
    edges = np.concatenate((np.flatnonzero(tokens == bos_id), np.arange(chunk, last, chunk)))
    near = np.unique(edges[:, None] + np.array([-1, 0, 1]))
    near = near[(near >= 0) & (near <= last)]
    draw = np.random.default_rng(0)
    chosen = draw.permutation(near)[: count // 2]
    others = draw.permutation(np.setdiff1d(np.arange(last + 1), chosen))
    return np.sort(np.concatenate((chosen, others[: count - len(chosen)]))).tolist()
