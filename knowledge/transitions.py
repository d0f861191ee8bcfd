"""The text's own graph: tokens, and an edge from each token to each that follows it.

The weight of an edge (a -> b) is the information that a gives about the token after b, beyond b:

    I(a, b) = sum over c of n(abc) ln[ ((n(abc) - 1 + K p) / (n(ab) - 1 + K)) / p ],  p = p(c | b)

in nats over the text. An occurrence does not count among those that predict it, so that rare edges
gain nothing by chance.
"""

from typing import NamedTuple

import numpy as np

from errors import InputError
from model.config import BigramRows, edge_count

STRENGTH = 20.0  # K: occurrences that the prediction without a counts as
LEAST = 40  # occurrences of an edge that can be ranked by its information
ROUNDS = 1_000
KINDS: tuple[BigramRows, ...] = ("information", "frequency", "shuffled", "mixed")


class Graph(NamedTuple):
    """Edges (E,) by ``token * V + predecessor``, ascending; how often each occurs; information."""

    edges: np.ndarray
    counts: np.ndarray
    information: np.ndarray


def graph_of(text: np.ndarray, vocab_size: int) -> Graph:
    """Return the graph of a text (n,) int64.

    Raises:
        InputError: it has fewer than three tokens.
    """
    if len(text) < 3:
        raise InputError("the text has no edge: give at least three tokens")
    edges, counts = np.unique(text[1:] * vocab_size + text[:-1], return_counts=True)
    followed = np.bincount(text[:-1], minlength=vocab_size)
    # An edge is counted here only where a token follows it.
    triples, often = np.unique(
        (text[1:-1] * vocab_size + text[:-2]) * vocab_size + text[2:], return_counts=True
    )
    first, after = np.divmod(triples, vocab_size)
    own = np.searchsorted(edges, first)
    middle = first // vocab_size
    seen = counts[np.searchsorted(edges, after * vocab_size + middle)]
    alone = seen / followed[middle]
    total = np.bincount(own, often, len(edges))[own]
    better = (often - 1 + STRENGTH * alone) / ((total - 1 + STRENGTH) * alone)
    return Graph(edges, counts, np.bincount(own, often * np.log(better), len(edges)))


def chosen(graph: Graph, kind: BigramRows, rows: int, vocab_size: int) -> np.ndarray:
    """Return the edges (E,) that own rows of a table, ascending.

    Raises:
        InputError: the text has too few.
    """
    wanted = edge_count(kind, rows)
    if len(graph.edges) < wanted:
        raise InputError(
            f"the text has {len(graph.edges):,} edges, too few for {wanted:,} rows; "
            "give more text, or a lower --rows"
        )
    if kind == "frequency":
        order = np.lexsort((graph.edges, -graph.counts))
    else:  # what occurs too rarely comes after all else, by frequency
        rare = graph.counts < LEAST
        rank = np.where(rare, graph.counts, graph.information)
        order = np.lexsort((graph.edges, -rank, rare))
    found = np.sort(graph.edges[order[:wanted]])
    return shuffled(found, vocab_size) if kind == "shuffled" else found


def shuffled(edges: np.ndarray, vocab_size: int, seed: int = 0) -> np.ndarray:
    """Return as many edges with the same tokens and predecessors, differently paired.

    Of few tokens, some pairs may stay.

    Raises:
        InputError: no such pairing was found.
    """
    generator = np.random.default_rng(seed)
    token, before = np.divmod(edges, vocab_size)
    for number in range(ROUNDS):
        found = token * vocab_size + before
        wrong = np.ones(len(found), bool)
        wrong[np.unique(found, return_index=True)[1]] = False
        if number < ROUNDS // 2:  # of few tokens, some pairs may have to stay
            wrong |= np.isin(found, edges)
        places = np.flatnonzero(wrong)
        if not len(places):
            return np.sort(found)
        others = generator.integers(len(found), size=len(places))
        for place, other in zip(places, others, strict=True):
            before[[place, other]] = before[[other, place]]
    raise InputError("the edges cannot be shuffled: give more text, or a lower --rows")
