"""A split's documents, cut into chunks that are scored one after the other, many documents at once.

A document begins with BOS, and the BOS of the next one is its last target, so that every token of
the split but the first is a target of one document. Nothing before a document is seen in it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.tokenizer import ByteTable
from evaluation.score import Record, Score, ScoreFunction, Tally, Tokens, to_device
from evaluation.ttt.weights import Learner
from evaluation.windows import cut
from runtime.ranks import World
from settings import Settings


@dataclass(frozen=True)
class Document:
    """Places in the split: of the first token and of the last target."""

    first: int
    last: int

    def chunks(self, size: int) -> int:
        """How many chunks of ``size`` targets it has, the last one perhaps shorter."""
        return math.ceil((self.last - self.first) / size)


EMPTY = Document(0, 0)


def find_documents(stream: Tokens, targets: int, bos_id: int) -> list[Document]:
    """The documents of the split's first ``targets`` targets, in order."""
    begins = np.flatnonzero(stream.read(0, targets + 1) == bos_id)
    edges = [0, *begins[begins > 0].tolist()]
    ends = [*edges[1:], targets]
    return [Document(a, b) for a, b in zip(edges, ends, strict=True) if b > a]


def score_documents(
    score_fn: ScoreFunction,
    learner: Learner,
    reset: Callable[[], None],
    stream: Tokens,
    byte_table: ByteTable,
    settings: Settings,
    *,
    world: World,
    max_tokens: int = 0,
    progress: Callable[[int, int], None] | None = None,
    record: Record | None = None,
) -> Score:
    """Score each document in chunks; the learner learns each chunk but the last once it is scored.

    Documents of about the same length go together, a row each. The ranks share the batches.

    Args:
        score_fn, stream, byte_table, settings, world, max_tokens, record: as for
            `evaluation.ttt.weights.score_first`.
        learner: what learns, each row by itself.
        reset: makes it forget, before each batch.
        progress: told (batches scored, batches in all) of this rank.
    """
    size, most = settings.ttt_lora_chunk, settings.eval_seq_len
    targets = cut(stream, most, size, 1, max_tokens).targets
    tally = Tally(byte_table, world, record)
    documents = find_documents(stream, targets, settings.bos_id)
    batches = alike(documents, size, settings.ttt_lora_documents)[world.rank :: world.size]
    for index, batch in enumerate(batches):
        reset()
        chunks = max(document.chunks(size) for document in batch)
        for chunk in range(chunks):
            tokens, places, is_new = load_chunk(stream, batch, chunk, size, most, world.device)
            with torch.inference_mode():
                nats = score_fn(tokens[:, :-1].contiguous(), tokens[:, -size:].contiguous())
                tally.add(tokens, nats, places, is_new)
            if chunk + 1 < chunks:
                learner.learn(tokens, places.where(is_new, -1), 1.0)
        if progress:
            progress(index + 1, len(batches))
    return tally.score()


def alike(documents: list[Document], size: int, count: int) -> list[list[Document]]:
    """Batches of ``count`` documents, the longest first; the last one filled up with empty ones, so
    that every batch has one shape."""
    ordered = sorted(documents, key=lambda document: -document.chunks(size))
    batches = [ordered[begin : begin + count] for begin in range(0, len(ordered), count)]
    batches[-1] += [EMPTY] * (count - len(batches[-1]))
    return batches


def load_chunk(
    stream: Tokens, batch: list[Document], chunk: int, size: int, most: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """A chunk of each document with at most ``most`` tokens before its last target.

    Returns:
        tokens (D, T + 1) int32, 0 beyond a document; places (D, size) of the last ``size`` targets;
        which of them (D, size) there are.
    """
    end = (chunk + 1) * size
    begin = max(0, end - most)
    tokens = np.zeros((len(batch), end - begin + 1), np.int32)
    for row, document in zip(tokens, batch, strict=True):
        start, stop = document.first + begin, min(document.first + end, document.last) + 1
        if start < stop:
            row[: stop - start] = stream.read(start, stop - start)
    first, last = (
        to_device(np.array(places), device)[:, None]
        for places in zip(*((d.first, d.last) for d in batch), strict=True)
    )
    places = first + torch.arange(end - size + 1, end + 1, device=device)
    return to_device(tokens, device), places, places <= last
