"""Measure what a bigram table's rows can be worth by whose they are: nats a token, by counts.

    python -m bench edges --data DIR

A row holds one factor for each next token c, by which it corrects p(c | b), b the current token:

    factor = (N + prior) / (E + prior)

N counts c after all pairs of the row, E is what p(c | b) expects, and factors times p are scaled to
a sum of 1. It counts the first training tokens, and tests on those that follow. There are two
priors: 30 E / (uses of the row), in proportion to what is expected, and 1, the same for each c.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse
import torch

from bench.harness.record import Commit, as_lines, check_out, provenance
from data.shards import TokenStream
from data.tokenizer import find_tokenizer
from data.vocabulary import read_tokenizer
from errors import InputError
from files import write_text
from kernels.embed.reference import bigram_hash
from knowledge.transitions import Graph, chosen, graph_of

TRAINED, TESTED = 5_000_000, 600_000
ROWS = 2048
UNIGRAMS = 20.0  # occurrences that the frequency of c counts as in p(c | b)
IN_PROPORTION, EVEN = 30.0, 1.0
AT_ONCE = 4096

RowsOf = Callable[[np.ndarray], np.ndarray]
"""From pairs (n,) by ``token * V + predecessor`` to their rows (n,)."""


class Text(NamedTuple):
    """Pairs (P,) of a text, how often they occur; next tokens (T,) of a pair's index, how often."""

    pairs: np.ndarray
    uses: np.ndarray
    own: np.ndarray
    after: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray, vocabulary: int) -> "Text":
        """Return the counts of tokens (n,) int64."""
        keys = (tokens[1:-1] * vocabulary + tokens[:-2]) * vocabulary + tokens[2:]
        triples, counts = np.unique(keys, return_counts=True)
        before, after = np.divmod(triples, vocabulary)
        pairs, own = np.unique(before, return_inverse=True)
        return cls(pairs, np.bincount(own, counts), own, after, counts)


class Study:
    """A text that is counted, one that is tested, and p(c | b) (V, V) fp32 of the first."""

    def __init__(self, tokens: np.ndarray, vocabulary: int, trained: int) -> None:
        self.vocabulary = vocabulary
        self.seen, self.new = (
            Text.of(part, vocabulary) for part in (tokens[:trained], tokens[trained:])
        )
        self.graph: Graph = graph_of(tokens[:trained], vocabulary)
        current, previous = np.divmod(self.graph.edges, vocabulary)
        known = np.zeros((vocabulary, vocabulary), np.float32)
        known[previous, current] = self.graph.counts
        unigrams = np.bincount(tokens[:trained], minlength=vocabulary) + 0.5
        unigrams = (unigrams / unigrams.sum()).astype(np.float32)
        known += UNIGRAMS * unigrams
        self.alone = known / known.sum(1, keepdims=True)

    def saved(self, rows_of: RowsOf, rows: int) -> tuple[float, float]:
        """Return the nats a token that a table saves, by each prior."""
        seen, size = self.seen, self.vocabulary
        row = rows_of(seen.pairs)
        uses = np.bincount(row, seen.uses, rows)[:, None].clip(1)
        shape = (rows, size)
        entered = sparse.csr_array((seen.uses, (row, seen.pairs // size)), shape=shape)
        expected = (entered.astype(np.float32) @ self.alone).astype(np.float32)
        found = np.bincount(row[seen.own] * size + seen.after, seen.counts, rows * size)
        found = found.reshape(shape).astype(np.float32)
        priors = (IN_PROPORTION * expected / uses + 1e-12, EVEN)
        first, second = (
            self._tested(rows_of, (found + prior) / (expected + prior)) for prior in priors
        )
        return first, second

    def _tested(self, rows_of: RowsOf, factors: np.ndarray) -> float:
        new = self.new
        row, current = rows_of(new.pairs), new.pairs // self.vocabulary
        scale = np.empty(len(row), np.float32)
        for start in range(0, len(row), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            scale[part] = np.einsum("nc,nc->n", self.alone[current[part]], factors[row[part]])
        gained = np.log(factors[row[new.own], new.after] / scale[new.own])
        return float((gained * new.counts).sum() / new.counts.sum())

    def hashed(self, rows: int, base: int = 0) -> RowsOf:
        """Return the rows by the network's hash, from ``base`` on."""

        def rows_of(pairs: np.ndarray) -> np.ndarray:
            current, previous = np.divmod(pairs, self.vocabulary)
            both = torch.from_numpy(np.stack((previous, current), axis=1))
            return base + bigram_hash(both, rows)[:, 1].numpy().astype(np.int64)

        return rows_of

    def owned(self, edges: np.ndarray, others: RowsOf) -> RowsOf:
        """Return rows of which each of ``edges``, ascending, has one."""

        def rows_of(pairs: np.ndarray) -> np.ndarray:
            place = np.searchsorted(edges, pairs).clip(max=len(edges) - 1)
            return np.where(edges[place] == pairs, place, others(pairs))

        return rows_of

    def tables(self, rows: int) -> dict[str, RowsOf]:
        """Return the rows of each way to give them away, by name."""
        found = {"hash": self.hashed(rows)}
        for kind in ("frequency", "information", "shuffled", "mixed"):
            edges = chosen(self.graph, kind, rows, self.vocabulary)
            left = rows - len(edges)
            found[kind] = self.owned(edges, self.hashed(left, len(edges)))
        # What else would be left for, where there are enough rows: one for each predecessor.
        half = chosen(self.graph, "information", rows // 2, self.vocabulary)
        others = rows - len(half)
        name = f"{len(half):,} information, the rest by predecessor"
        found[name] = self.owned(half, lambda p: len(half) + p % self.vocabulary % others)
        return found


def main(
    *,
    data: Path,
    trained: int = TRAINED,
    tested: int = TESTED,
    rows: int = ROWS,
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Measure each table, print the table, write it where ``--out`` says.

    Args:
        data: folder of token shards
        trained: tokens that are counted
        tested: tokens after them, on which is tested
        rows: of a table
        out: file for the table
    """
    check_out(out)
    tokenizer = read_tokenizer(find_tokenizer(data, None))
    stream = TokenStream.open(data, "train", tokenizer.vocab_size)
    if len(stream) < trained + tested:
        raise InputError(f"{data}: has {len(stream):,} training tokens; give lower --trained")
    tokens = stream.read(0, trained + tested).astype(np.int64)
    study = Study(tokens, tokenizer.vocab_size, trained)
    lines = [as_lines(provenance(commit))]
    lines += [
        f"vocabulary {tokenizer.vocab_size}, {rows:,} rows, {trained:,} and {tested:,} tokens",
        "",
        "| rows given to | nats saved, prior in proportion | nats saved, even prior |",
        "|---|---|---|",
    ]
    for name, rows_of in study.tables(rows).items():
        first, second = study.saved(rows_of, rows)
        lines.append(f"| {name} | {first:.4f} | {second:.4f} |")
    print("\n".join(lines))
    if out:
        command = f"python -m bench edges --data DIR --rows {rows}"
        command += f" --trained {trained} --tested {tested}"
        write_text(out, "\n".join([command, *lines, ""]))
    return 0
