"""How rank reaches tokens, by hand; what is merely frequent gets no score."""

from collections.abc import Sequence

import numpy as np
import pytest

from data.tokenizer import Tokenizer
from errors import InputError
from knowledge.distil import candidates, cut, distil, excess, token_masses, word_masses
from knowledge.rank import pagerank
from knowledge.scores import TOP_CODE, TokenScores
from tests.knowledge.graphs import graph_of


def masses_of(labels: Sequence[str], rank: Sequence[float]) -> dict[str, tuple[float, float]]:
    words, (ranked, alike) = word_masses(graph_of(labels).labels, np.array(rank))
    return dict(zip(words, zip(ranked, alike, strict=True), strict=True))


def scored(scores: TokenScores, tokenizer: Tokenizer) -> dict[str, float]:
    """Scores above zero by piece."""
    pieces = map(tokenizer.processor.id_to_piece, scores.ids.tolist())
    return {piece: s for piece, s in zip(pieces, scores.scores.tolist(), strict=True) if s}


def test_a_node_splits_its_rank_evenly_over_the_words_of_its_label() -> None:
    labels = ["act, move-act", "", "42", "act", "(thé)"]
    assert masses_of(labels, [0.3, 0.1, 0.1, 0.4, 0.1]) == {
        "act": (pytest.approx(0.6), pytest.approx(2 / 3 + 1)),
        "move": (pytest.approx(0.1), pytest.approx(1 / 3)),
        "thé": (pytest.approx(0.1), pytest.approx(1)),
    }


def test_accents_that_follow_their_letter_belong_to_the_word() -> None:
    assert list(masses_of(["cafe\u0301 au_lait"], [1.0])) == ["cafe\u0301", "au", "lait"]


def test_a_word_splits_its_mass_evenly_over_its_tokens(tokenizer: Tokenizer) -> None:
    words = ["entity", "zebra", "\u00fcber"]
    masses = np.array([[0.5, 0.25, 0.25], [1.0, 1.0, 2.0]])
    reached = token_masses(words, masses, tokenizer, lambda share: None)
    wanted = np.zeros_like(reached)
    for word, mass in zip(words, masses.T, strict=True):
        tokens = tokenizer.encode(f"a {word}")[1:]
        for token in tokens:
            wanted[:, token] += mass / len(tokens)
    np.testing.assert_allclose(reached, wanted, rtol=1e-12)
    assert len(tokenizer.encode("a entity")) == 2
    assert len(tokenizer.encode("a zebra")) > 3


def test_words_are_cut_as_they_stand_after_a_space(tokenizer: Tokenizer) -> None:
    ((start, tokens),) = cut(["entity", "of"], tokenizer)
    pieces = [[tokenizer.processor.id_to_piece(token) for token in word] for word in tokens]
    assert (start, pieces) == (0, [["▁entity"], ["▁of"]])


def test_many_words_are_cut_in_their_order(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowledge.distil.WORDS_AT_ONCE", 2)
    words, heard = ["entity", "move", "cause", "plant", "of"], []
    masses = np.stack((np.arange(5.0), np.ones(5)))
    reached = token_masses(words, masses, tokenizer, heard.append)
    for word, mass in zip(words, masses.T, strict=True):
        np.testing.assert_array_equal(reached[:, tokenizer.encode(f"a {word}")[1]], mass)
    assert heard == [0.4, 0.8, 1.0]


def test_only_pieces_with_a_letter_can_have_a_score(tokenizer: Tokenizer) -> None:
    can = candidates(tokenizer)
    pieces = [tokenizer.processor.id_to_piece(token) for token in range(tokenizer.vocab_size)]
    chosen = {piece for piece, yes in zip(pieces, can, strict=True) if yes}
    assert {"▁entity", "e", "E", "é"} <= chosen
    assert not chosen & {"<pad>", "<s>", "</s>", "<unk>", "<0x41>", "▁", ".", "1", "2"}


def test_excess_is_the_formula_of_the_docstring() -> None:
    ranked = np.array([4.0, 1.0, 1.0, 2.0, 9.0, 0.0])
    alike = np.array([1.0, 2.0, 1.0, 4.0, 1.0, 0.0])
    wanted = np.array([True, True, True, True, False, True])
    p, q = ranked[:4] / 8, alike[:4] / 8
    m = np.median(p / q)
    logs = [max(0, np.log((a / m + 1 / 6) / (b + 1 / 6))) for a, b in zip(p, q, strict=True)]
    scores = excess(ranked, alike, wanted)
    np.testing.assert_allclose(scores[:4], np.array(logs) / max(logs), rtol=1e-12)
    assert np.isnan(scores[4:]).all()


def test_a_graph_that_ranks_all_alike_scores_nothing() -> None:
    masses = np.array([3.0, 1.0, 2.0])
    assert excess(masses / 7, masses, np.ones(3, bool)).tolist() == [0, 0, 0]


def test_central_words_score_and_merely_frequent_ones_do_not(tokenizer: Tokenizer) -> None:
    """A hundred nodes name "the" and lead to the one that is "entity"."""
    plain = ["the plant", "the animal", "the system", "the thing"] * 25
    graph = graph_of(["entity", *plain], [(node, 0, 1.0) for node in range(1, 101)])
    scores = distil(graph, pagerank(graph), tokenizer)
    assert (scores.scores > 0).all()  # all other tokens have zero without a place in the file
    assert scores.tokenizer == tokenizer.sha256
    assert scored(scores, tokenizer) == {"▁entity": 1.0}


def test_scores_do_not_depend_on_the_order_of_nodes(tokenizer: Tokenizer) -> None:
    labels = ["entity", "quick move", "plant", "animal plant", "science"]
    edges = [(1, 0, 1.0), (2, 0, 0.5), (3, 2, 1.0), (4, 0, 0.2), (1, 4, 0.7)]
    renumbered = [(4 - source, 4 - target, weight) for source, target, weight in edges]
    results = [
        distil(graph, pagerank(graph), tokenizer)
        for graph in (graph_of(labels, edges), graph_of(labels[::-1], renumbered))
    ]
    one, other = (scored(result, tokenizer) for result in results)
    assert one.keys() == other.keys()
    assert all(abs(one[piece] - other[piece]) * TOP_CODE < 1.5 for piece in one)
    assert max(one, key=one.__getitem__) == "▁entity"


@pytest.mark.parametrize(("label", "message"), [("12 .", "holds a word"), ("中", "holds a letter")])
def test_labels_that_reach_no_token_are_refused(
    tokenizer: Tokenizer, label: str, message: str
) -> None:
    graph = graph_of([label])
    with pytest.raises(InputError, match=message):
        distil(graph, np.ones(1), tokenizer)
