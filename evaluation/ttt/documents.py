"""Score-first test-time training of adapters, a split's documents separately.

A document is cut into chunks, which are scored in order; many documents form a batch. A document
begins with BOS, and the BOS of the next one is its last target, so that every token of the split
but the first is a target of one document. No window reaches beyond the beginning of its document.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.score import Score, ScoreFunction, Scoring, Split, Tally, Tokens, to_device
from evaluation.ttt.learner import Learner
from evaluation.windows import WindowPlan, cut


@dataclass(frozen=True)
class Document:
    """Positions in the split of a document's first token and of its last target."""

    first: int
    last: int

    def chunks(self, size: int) -> int:
        """Return the number of chunks of ``size`` targets; the last one may be shorter."""
        return math.ceil((self.last - self.first) / size)


EMPTY = Document(0, 0)


@dataclass(frozen=True)
class DocumentPlan:
    """How documents are found, cut into chunks and scored at once.

    Attributes:
        bos_id: the token that begins a document.
        chunk_tokens: targets of a chunk, 1 to ``seq_len``.
        seq_len: most tokens of context, those of the chunk included.
        documents: how many form a batch.
    """

    bos_id: int
    chunk_tokens: int
    seq_len: int
    documents: int


def find_documents(stream: Tokens, targets: int, bos_id: int) -> list[Document]:
    """Return the documents of the split's first ``targets`` targets, in order."""
    begins = np.flatnonzero(stream.read(0, targets + 1) == bos_id)
    edges = [0, *begins[begins > 0].tolist()]
    ends = [*edges[1:], targets]
    return [Document(a, b) for a, b in zip(edges, ends, strict=True) if b > a]


def score_documents(
    score_fn: ScoreFunction,
    learner: Learner,
    reset: Callable[[], None],
    split: Split,
    plan: DocumentPlan,
    scoring: Scoring,
) -> Score:
    """Score each document in chunks; the learner is updated on each but the last, once scored.

    Documents of about the same length form a batch, one a row. The ranks share the batches.

    Args:
        score_fn, split: as for `evaluation.windows.evaluate`.
        learner: updates each row separately.
        reset: undoes all updates; called before each batch.
        plan: the documents and their chunks.
        scoring: the ranks; ``progress`` counts the batches of this rank.
    """
    world, size = scoring.world, plan.chunk_tokens
    targets = cut(split, WindowPlan(plan.seq_len, size, batch=1)).targets
    tally = Tally(split, scoring)
    documents = find_documents(split.stream, targets, plan.bos_id)
    batches = alike(documents, size, plan.documents)[world.rank :: world.size]
    for index, batch in enumerate(batches):
        reset()
        chunks = max(document.chunks(size) for document in batch)
        for chunk in range(chunks):
            tokens, positions, is_new = load_chunk(split.stream, batch, chunk, plan, world.device)
            with torch.inference_mode():
                nats = score_fn(tokens[:, :-1].contiguous(), tokens[:, -size:].contiguous())
                tally.add(tokens, nats, positions, is_new)
            if chunk + 1 < chunks:
                learner.update(tokens, positions.where(is_new, -1), 1.0)
        if scoring.progress:
            scoring.progress(index + 1, len(batches))
    return tally.score()


def alike(documents: list[Document], size: int, count: int) -> list[list[Document]]:
    """Return batches of ``count`` documents, the longest first.

    The last batch is filled up with empty documents, so that every batch has the same shape.
    """
    ordered = sorted(documents, key=lambda document: -document.chunks(size))
    batches = [ordered[begin : begin + count] for begin in range(0, len(ordered), count)]
    batches[-1] += [EMPTY] * (count - len(batches[-1]))
    return batches


def load_chunk(
    stream: Tokens, batch: list[Document], chunk: int, plan: DocumentPlan, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Load a chunk of each document, with as much context as the plan gives its last target.

    Returns:
        tokens (D, T + 1) int32, 0 beyond a document; positions (D, S) of the chunk's S targets;
        which of them (D, S) belong to the document.
    """
    end = (chunk + 1) * plan.chunk_tokens
    begin = max(0, end - plan.seq_len)
    tokens = np.zeros((len(batch), end - begin + 1), np.int32)
    for row, document in zip(tokens, batch, strict=True):
        start, stop = document.first + begin, min(document.first + end, document.last) + 1
        if start < stop:
            row[: stop - start] = stream.read(start, stop - start)
    first, last = (
        to_device(np.array(column), device)[:, None]
        for column in zip(*((d.first, d.last) for d in batch), strict=True)
    )
    positions = first + torch.arange(end - plan.chunk_tokens + 1, end + 1, device=device)
    return to_device(tokens, device), positions, positions <= last
