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
    one_by_one: Baseline | None = None,
) -> Check:
    """Change every token after each cut; after every other cut a document begins.

    Documents that are scored together are rounded together, so a score may move by rounding if
    another document ends elsewhere. So a method of documents is given ``one_by_one``: cuts that
    move ends are tried with documents scored one by one, the others leave all ends. A score that
    reads other documents' ends only if they are scored together is left to `prefix`.

    Args:
        name: of the method.
        baseline: its runs over the unchanged text.
        cuts: positions after which tokens change, each before the last.
        vocab_size: of the tokens.
        bos_id: the token that begins a document.
        progress: called with the number of cuts done.
        one_by_one: such runs with documents scored one by one.
    """
    moving = one_by_one or baseline
    if fault := baseline.fault or moving.fault:
        return Check(RULE, name, False, fault)
    draw = np.random.default_rng(0)
    farthest = 0.0
    for done, cut in enumerate(cuts, start=1):
        only_ends = one_by_one is None or (baseline.tokens[cut + 1 :] == bos_id).all()
        of = moving if done % 2 or only_ends else baseline
        kept = None if of is moving else bos_id
        tokens = changed_after(of.tokens, cut, vocab_size, draw, kept)
        if done % 2 and of.tokens[cut + 1] != bos_id:
            tokens[cut + 1] = bos_id
        moved = of.moved(of.scores(tokens))
        fault = fault_of_cut(moved, cut, of.allowed)
        if fault:
            return Check(RULE, name, False, fault)
        farthest = max(farthest, largest(moved[1 : cut + 1]))
        progress(done)
    allowed = max(baseline.allowed.max(), moving.allowed.max())
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
    tokens: np.ndarray,
    cut: int,
    vocab_size: int,
    draw: np.random.Generator,
    kept: int | None = None,
) -> np.ndarray:
    """Return a copy in which every token after position ``cut`` is another one.

    ``kept`` stays where it is, and comes nowhere else.
    """
    altered = tokens.copy()
    tail = altered[cut + 1 :].astype(np.int64)
    # Never the token before its own, so that one step further is no step back.
    changed = (tail + draw.integers(1, vocab_size - 1, len(tail))) % vocab_size
    if kept is not None:
        changed[changed == kept] = (kept + 1) % vocab_size
        changed[tail == kept] = kept
    altered[cut + 1 :] = changed
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
