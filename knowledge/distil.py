"""From ranked nodes to scores of tokens.

A node's rank is divided evenly among the words of its label (runs of letters), and a word's part
evenly among its tokens, encoded as after a space. The sum is P, a distribution over the tokens that
contain a letter; mass that reaches other tokens is dropped.

Q is the same distribution if all nodes have equal rank. It corrects for tokens that are merely
frequent. Few nodes hold most of the rank, so most tokens have less mass in P than in Q; the median
m of P/Q is the ratio of an ordinary token. A token's score is the logarithm of its ratio to m. The
mass 1/V of a mean token is added on both sides, because a ratio of two small masses is noisy:

    score_t = ln((P_t / m + 1/V) / (Q_t + 1/V)), clipped at 0, divided by its maximum
"""

# Arrow creates its compute functions at import.
# pyright: reportAttributeAccessIssue=false
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.tokenizer import Tokenizer
from errors import InputError
from knowledge.graph import Graph
from knowledge.packing import best
from knowledge.scores import TOP_CODE, TokenScores
from knowledge.tables import Report

NOT_LETTERS = r"[^\p{L}\p{M}]+"
WORDS_AT_ONCE = 20_000


def distil(
    graph: Graph,
    rank: np.ndarray,
    tokenizer: Tokenizer,
    report: Report = lambda share: None,
) -> TokenScores:
    """Return the scores of ``tokenizer``'s tokens; ``report`` gets the fraction done.

    Args:
        rank: (N,) fp64 of the graph's nodes.

    Raises:
        InputError: no label holds a word.
    """
    words, masses = word_masses(graph.labels, rank)
    if not words:
        raise InputError("no label holds a word: nothing to distil")
    ranked, alike = token_masses(words, masses, tokenizer, report)
    scores = excess(ranked, alike, candidates(tokenizer))
    # Tokens that are not stored have the score 0, too.
    scores[np.rint(scores * TOP_CODE) == 0] = np.nan
    return best(tokenizer.sha256, scores)


def word_masses(labels: pa.ChunkedArray, rank: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return all words, and masses (2, W) fp64 by rank and with all nodes alike."""
    split = pc.split_pattern_regex(labels, NOT_LETTERS)
    words = pc.list_flatten(split)
    node = np.repeat(np.arange(len(labels)), pc.list_value_length(split).to_numpy())
    # A label that begins or ends without a letter leaves an empty word there.
    full = pc.not_equal(words, "")
    encoded = words.filter(full).dictionary_encode().combine_chunks()
    node = node[full.to_numpy()]
    share = 1 / np.bincount(node, minlength=len(labels))[node]
    codes, size = encoded.indices.to_numpy(), len(encoded.dictionary)
    alike = np.bincount(codes, share, size)
    return encoded.dictionary.to_pylist(), np.stack(
        (np.bincount(codes, share * rank[node], size), alike)
    )


def token_masses(
    words: list[str], masses: np.ndarray, tokenizer: Tokenizer, report: Report
) -> np.ndarray:
    """Return masses (2, V) fp64 that reach each token from words' masses (2, W)."""
    total = np.zeros((2, tokenizer.vocab_size))
    for start, tokens in cut(words, tokenizer):
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = np.fromiter((token for word in tokens for token in word), np.int64, lengths.sum())
        for row, mass in zip(total, masses[:, start : start + len(tokens)], strict=True):
            row += np.bincount(flat, np.repeat(mass / lengths, lengths), len(row))
        report((start + len(tokens)) / len(words))
    return total


def cut(words: list[str], tokenizer: Tokenizer) -> Iterator[tuple[int, list[list[int]]]]:
    """Yield tokens of words as they stand after a space, with the first word's index.

    A tokenizer may drop or add a space at the beginning of a text, so another word comes first. No
    token of these models spans a space between words.
    """
    before = "a"
    skipped = len(tokenizer.encode(before))
    for start in range(0, len(words), WORDS_AT_ONCE):
        texts = [f"{before} {word}" for word in words[start : start + WORDS_AT_ONCE]]
        yield start, [tokens[skipped:] for tokens in tokenizer.processor.encode(texts)]


def candidates(tokenizer: Tokenizer) -> np.ndarray:
    """Return which tokens (V,) can have a score: those whose piece holds a letter."""
    processor, size = tokenizer.processor, tokenizer.vocab_size
    special = (processor.is_byte, processor.is_control, processor.is_unknown, processor.is_unused)
    return np.array(
        [
            any(character.isalpha() for character in processor.id_to_piece(token))
            and not any(is_kind(token) for is_kind in special)
            for token in range(size)
        ]
    )


def excess(ranked: np.ndarray, alike: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return scores (V,) in [0, 1], or NaN, of masses (V,) by rank and with all nodes alike."""
    reached = wanted & (alike > 0)
    if not reached.any():
        raise InputError("no word of any label has a token that holds a letter: nothing to distil")
    ranked, alike = ranked[reached] / ranked[reached].sum(), alike[reached] / alike[reached].sum()
    ordinary, mean = np.median(ranked / alike), 1 / len(wanted)
    excess = np.maximum(0, np.log((ranked / ordinary + mean) / (alike + mean)))
    scores = np.full(len(wanted), np.nan)
    scores[reached] = excess / max(excess.max(), np.finfo(float).tiny)
    return scores
