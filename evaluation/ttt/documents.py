"""Score-first test-time training of adapters, a split's documents separately.

A document is cut into chunks, which are scored in order; many documents form a batch. A document
begins with BOS, and the BOS of the next one is its last target, so that every token of the split
but the first is a target of one document. No document reads another.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import torch
from torch import Tensor

from evaluation.score import Tally, Tokens, to_device
from evaluation.ttt.learner import Learner
from evaluation.ttt.lora import Adapters
from evaluation.ttt.reader import EARLIER
from evaluation.ttt.tilt import Hints
from settings import Settings

DOUBLING = 16  # chunks of a size that a document has before chunks of twice the size
HALVINGS = 4  # of a batch, while its documents end


@dataclass(frozen=True)
class Document:
    """Positions in the split of a document's first token and of its last target."""

    first: int
    last: int

    @property
    def targets(self) -> int:
        """Return the number of its targets."""
        return self.last - self.first


EMPTY = Document(0, 0)


@dataclass(frozen=True)
class DocumentPlan:
    """How documents are cut into chunks and scored at once.

    Chunks grow with the part of the document that was scored, so they tell nothing of its length.

    Attributes:
        first, most: targets of a document's first chunks, and of its largest ones.
        documents: how many form a batch.
    """

    first: int
    most: int
    documents: int

    @classmethod
    def of(cls, settings: Settings) -> "DocumentPlan":
        """Return the plan of the settings."""
        return cls(
            settings.ttt_lora_chunk, settings.ttt_lora_chunk_most, settings.ttt_lora_documents
        )

    def size(self, begin: int) -> int:
        """Return the targets of the chunk that begins after ``begin`` targets."""
        size = self.first
        while begin >= DOUBLING * size and 2 * size <= self.most:
            size *= 2
        return size

    def begins(self, targets: int) -> np.ndarray:
        """Return the number of targets before each chunk of a document."""
        begins = [0]
        while begins[-1] < targets:
            begins.append(begins[-1] + self.size(begins[-1]))
        return np.array(begins[:-1])

    def start(self, offsets: np.ndarray) -> np.ndarray:
        """Return the first token that a chunk is given, by its document's targets (from 1)."""
        begins = self.begins(int(offsets.max(initial=1)))
        begin = begins[np.searchsorted(begins, offsets, "left") - 1]
        return begin - np.minimum(begin, EARLIER)


def find_documents(stream: Tokens, targets: int, bos_id: int) -> list[Document]:
    """Return the documents of the split's first ``targets`` targets, in order."""
    begins = np.flatnonzero(stream.read(0, targets + 1) == bos_id)
    edges = [0, *begins[begins > 0].tolist()]
    ends = [*edges[1:], targets]
    return [Document(a, b) for a, b in zip(edges, ends, strict=True) if b > a]


def deal(documents: list[Document], ranks: int) -> list[list[Document]]:
    """Return each rank's documents, the longest first: each goes to who has the fewest targets."""
    shares: list[list[Document]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for document in sorted(documents, key=lambda document: -document.targets):
        load, rank = heappop(loads)
        shares[rank].append(document)
        heappush(loads, (load + document.targets, rank))
    return shares


def score_documents(
    adapters: Adapters,
    learner: Learner,
    stream: Tokens,
    documents: list[Document],
    plan: DocumentPlan,
    tally: Tally,
    hints: Hints | None = None,
) -> None:
    """Score each document in chunks; adapters are updated on each but the last, once scored.

    The ranks share the documents by their targets.

    Args:
        adapters: score each row by what it learned.
        learner: of the adapters, as who watches it sees it.
        stream: tokens of the split.
        documents: of it.
        plan: their chunks.
        tally: receives the scores.
        hints: of the documents, to which scores are tilted.
    """
    share = deal(documents, tally.world.size)[tally.world.rank]
    for begin in range(0, len(share), plan.documents):
        batch = share[begin : begin + plan.documents]
        adapters.reset(len(batch))
        score_batch(adapters, learner, stream, batch, plan, tally, hints)
        adapters.keep()


def score_batch(
    adapters: Adapters,
    learner: Learner,
    stream: Tokens,
    batch: list[Document],
    plan: DocumentPlan,
    tally: Tally,
    hints: Hints | None,
) -> None:
    """Score a batch of documents, the longest first; arguments as for ``score_documents``."""
    for begin in plan.begins(batch[0].targets).tolist():
        size = plan.size(begin)
        rows = alive(batch, begin, plan.documents)
        tokens, positions, last = load_chunk(stream, rows, begin, size, tally.world.device)
        nats = adapters.read(tokens, *([hints.at(positions)] if hints else []))
        tally.add(tokens, nats, positions, positions <= last)
        if begin + size < batch[0].targets:
            goes_on = positions[:, -1:] < last
            learner.update(tokens, positions.where(goes_on, -1), 1.0)
            adapters.reader.advance(size)


def alive(batch: list[Document], begin: int, most: int) -> list[Document]:
    """Return the documents with more than ``begin`` targets, and others up to a usual number.

    That is ``most``, halved as long as it is even and at most ``HALVINGS`` times. Empty documents
    fill up the last rows.
    """
    count, rows = sum(document.targets > begin for document in batch), most
    for _ in range(HALVINGS):
        if rows % 2 == 0 and count <= rows // 2:
            rows //= 2
    return [*batch[:rows], *[EMPTY] * (rows - len(batch))]


def load_chunk(
    stream: Tokens, batch: list[Document], begin: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Load a chunk of each document.

    Returns:
        tokens (N, E + S + 1) int32, with E tokens before the chunk and 0 beyond a document;
        positions (N, S) of the chunk's S targets; position (N, 1) of each document's last target.
    """
    start = begin - min(begin, EARLIER)
    tokens = np.zeros((len(batch), begin + size + 1 - start), np.int32)
    for row, document in zip(tokens, batch, strict=True):
        count = min(document.targets + 1 - start, len(row))
        if count > 0 and document.targets:
            row[:count] = stream.read(document.first + start, count)
    edges = to_device(np.array([(document.first, document.last) for document in batch]), device)
    first, last = edges.split(1, dim=1)
    positions = first + torch.arange(begin + 1, begin + size + 1, device=device)
    return to_device(tokens, device), positions, last
