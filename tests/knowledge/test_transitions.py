"""The graph of a text's transitions: information by its formula, ranks, shuffled pairs."""

from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest

from errors import InputError
from knowledge.transitions import KINDS, LEAST, Graph, chosen, graph_of, shuffled

VOCAB = 12


def text_of(length: int = 6000, seed: int = 1) -> np.ndarray:
    """Tokens of unequal frequencies, of which 3 follows 2 exactly after 1 and 4."""
    draw = np.random.default_rng(seed)
    text = np.minimum(draw.geometric(0.3, length), VOCAB - 1)
    for place in range(2, length):
        if text[place - 1] == 2 and text[place - 2] in (1, 4):
            text[place] = 3
    return text.astype(np.int64)


def test_information_is_that_of_the_formula() -> None:
    text = text_of(2000)
    graph = graph_of(text, VOCAB)
    tokens = text.tolist()
    pairs, follows = Counter(pairwise(tokens)), Counter(tokens[:-1])
    triples = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    found = dict(zip(graph.edges.tolist(), graph.information.tolist(), strict=True))
    assert dict(zip(graph.edges.tolist(), graph.counts.tolist(), strict=True)) == {
        b * VOCAB + a: n for (a, b), n in pairs.items()
    }
    for a, b in pairs:
        followers = {c: n for (x, y, c), n in triples.items() if (x, y) == (a, b)}
        total, expected = sum(followers.values()), 0.0
        for c, n in followers.items():
            p = pairs[b, c] / follows[b]
            expected += n * log((n - 1 + 20 * p) / (total - 1 + 20) / p)
        assert found[b * VOCAB + a] == pytest.approx(expected, abs=1e-9), (a, b)


def test_the_most_informative_edge_is_first_and_not_the_most_frequent() -> None:
    graph = graph_of(text_of(), VOCAB)
    first = {kind: chosen(graph, kind, 3, VOCAB).tolist() for kind in ("information", "frequency")}
    assert first["information"][0] in (2 * VOCAB + 1, 2 * VOCAB + 4)
    assert first["frequency"] == [int(graph.edges[graph.counts.argmax()])]
    assert first["information"] != first["frequency"]


def test_what_is_rare_comes_last_by_frequency() -> None:
    graph = Graph(
        np.arange(4), np.array([LEAST, LEAST - 1, LEAST + 9, LEAST - 2]), np.array([1.0, 99, 2, 98])
    )
    assert [chosen(graph, "information", rows, VOCAB).tolist() for rows in (3, 4, 5)] == [
        [2],
        [0, 2],
        [0, 1, 2],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_texts_give_equal_edges_in_order(kind) -> None:
    first, second = (chosen(graph_of(text_of(), VOCAB), kind, 20, VOCAB) for _ in range(2))
    assert first.tolist() == second.tolist() == sorted(set(first.tolist()))
    assert len(first) == (15 if kind == "mixed" else 18)


def test_mixed_rows_are_the_most_informative() -> None:
    graph = graph_of(text_of(), VOCAB)
    best = chosen(graph, "information", 17, VOCAB)
    assert chosen(graph, "mixed", 20, VOCAB).tolist() == best.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_edges_keep_their_ends_and_are_no_edges(seed: int) -> None:
    vocabulary, draw = 200, np.random.default_rng(seed)
    edges = np.unique(np.minimum(draw.geometric(0.02, (400, 2)), 199) @ [vocabulary, 1])
    found = shuffled(edges, vocabulary, seed)
    assert len(np.unique(found)) == len(edges)
    assert not np.isin(found, edges).any()
    for part in (0, 1):
        ours, theirs = (np.sort(np.divmod(each, vocabulary)[part]) for each in (found, edges))
        assert np.array_equal(ours, theirs)


def test_a_text_of_too_few_edges_is_refused() -> None:
    with pytest.raises(InputError, match="too few for 2,046 rows"):
        chosen(graph_of(text_of(), VOCAB), "information", 2048, VOCAB)
    with pytest.raises(InputError, match="at least three tokens"):
        graph_of(text_of(2), VOCAB)
    with pytest.raises(InputError, match="cannot be shuffled"):
        shuffled(np.array([3, 3]), VOCAB)
