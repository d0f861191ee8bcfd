"""The loss's three products and its softmax over chunks of rows, on three streams.

The products run over chunks long enough to fill the GPU. The first product and the softmax run over
short blocks of a chunk, so that the softmax finds the logits in the L2 cache. Kernels of one stream
use multiprocessors that another's leave idle as they start and end. With chunks of 8 blocks:

    current  z0 z1 ... z7  z8  dhidden0-7  z9 ... z15  z16  dhidden8-15 ...
    softmax     s0 s1 ... s7   s8          s9 ...      s15  s16         ...
    dheads                     dheads0-7                    dheads8-15  ...

A chunk's dhidden and dheads come after the next chunk's first block, whose product overlaps with
the last softmax of this chunk. So logits of two chunks exist at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kernels.common.streams import Side

# Both directions in us, H100: as below 1,726 at commit 72db346, 1,731 at febceab.
# 201 MB in bf16: 32,768 rows of 3 heads of 1,024. At febceab 24,576 rows 1,746; 33,792 1,745;
# 36,864 1,740. At 72db346 16,384 rows 1,781; 65,536 1,716, but 0.8 GiB.
CHUNK_LOGITS = 3 * 2**25
# 25 MB, half an L2 cache: 4,096 such rows. At 72db346 1,408 rows 1,851; 2,048 1,791; 4,224 1,766;
# 8,448 1,795.
BLOCK_LOGITS = 3 * 2**22
# dheads has too few tiles for all multiprocessors; several sums over fewer rows have enough.
HEAD_PARTS = 2  # 4: 1,752 at 72db346; 1: 1,809 at febceab
# Elements of dheads from which on its tiles of 128 x 256 are enough: not timed.
WHOLE_WAVE = 100 * 128 * 256
ROW_MULTIPLE = 128  # chunks and blocks are whole tiles of cuBLAS's products
DHEADS_LANE: int | None = 1  # of ``kernels.common.streams``


@dataclass(frozen=True)
class Chunks:
    """Operands and results of a pass over hidden's N rows."""

    rows: Tensor  # (N, C)
    heads: Tensor  # (HV, C)
    bounds: list[slice]
    logits: Tensor  # (2, rows of a chunk, HV); (1, ...) if there is only one chunk
    dhidden: Tensor | None  # (N, C)
    dheads: Tensor | None  # (parts, HV, C), whose sum is the gradient

    @classmethod
    def of(cls, hidden: Tensor, heads: Tensor, learning: bool) -> "Chunks":
        """Return buffers for hidden (..., C) and heads (H, V, C); of gradients if ``learning``."""
        rows, stacked = hidden.reshape(-1, hidden.size(-1)), heads.flatten(0, 1)
        bounds = spans(len(rows), len(stacked), CHUNK_LOGITS)
        logits = rows.new_empty(min(len(bounds), 2), bounds[0].stop, len(stacked))
        if not learning:
            return cls(rows, stacked, bounds, logits, None, None)
        parts = sum(head_parts(chunk, stacked.numel()) for chunk in bounds)
        dheads = rows.new_empty(parts, *stacked.shape)
        return cls(rows, stacked, bounds, logits, rows.new_empty(rows.shape), dheads)

    def run(
        self,
        softmax: Side,
        entropies: Callable[[Tensor, int], None],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Compute logits, nats and gradients.

        Args:
            softmax: stream of ``entropies``.
            entropies: called with a block's logits (rows, HV) and the row in N of the first;
                replaces the logits by their gradients, if there are any.
            then: launched after the last softmax, overlapping with the last gradients.
        """
        done = None
        with Side(self.rows.device, DHEADS_LANE) as sums:
            for index in range(len(self.bounds)):
                for z, x, first in self.blocks(index):
                    torch.mm(x, self.heads.T, out=z)
                    with softmax.launches():
                        entropies(z, first)
                    if index and first == self.bounds[index].start:
                        softmax.join(done)
                        self.multiply(index - 1, sums)
                done = softmax.mark()
                sums.join()  # the next chunk's logits overwrite those that it has read
            with softmax.launches():
                then()
            softmax.join(done)
            self.multiply(len(self.bounds) - 1, sums)

    def blocks(self, index: int) -> list[tuple[Tensor, Tensor, int]]:
        """Return logits and rows of each block of a chunk, and the index in N of its first row."""
        chunk, z = self.bounds[index], self.chunk_logits(index)
        x, cuts = self.rows[chunk], spans(len(z), len(self.heads), BLOCK_LOGITS)
        return [(z[cut], x[cut], chunk.start + cut.start) for cut in cuts]

    def multiply(self, index: int, sums: Side) -> None:
        """Compute dhidden, and dheads on ``sums``, of a chunk whose logits are gradients now."""
        if self.dhidden is None or self.dheads is None:
            return
        chunk, dz = self.bounds[index], self.chunk_logits(index)
        parts = (head_parts(each, self.heads.numel()) for each in self.bounds)
        first, end = [0, *accumulate(parts)][index : index + 2]
        # dheads first: it has fewer tiles than there are multiprocessors, and dhidden's many tiles
        # fill the others.
        with sums.launches():
            parts = [each.view(end - first, -1, each.size(1)) for each in (dz, self.rows[chunk])]
            torch.bmm(parts[0].mT, parts[1], out=self.dheads[first:end])
        torch.mm(dz, self.heads, out=self.dhidden[chunk])

    def chunk_logits(self, index: int) -> Tensor:
        """Return the logits (rows, HV) of a chunk; chunks alternate between two buffers."""
        chunk = self.bounds[index]
        return self.logits[index % 2, : chunk.stop - chunk.start]


def spans(rows: int, vocabularies: int, logits: int) -> list[slice]:
    """Return ``rows`` cut into slices with about ``logits`` logits each."""
    whole = logits // vocabularies // ROW_MULTIPLE * ROW_MULTIPLE
    return [slice(*ends) for ends in pairwise([*range(0, rows, max(whole, ROW_MULTIPLE)), rows])]


def head_parts(chunk: slice, elements: int) -> int:
    """Return the number of partial sums of dheads, each over equally many of the chunk's rows.

    ``elements`` are those of dheads.
    """
    if elements >= WHOLE_WAVE:
        return 1
    return HEAD_PARTS if (chunk.stop - chunk.start) % HEAD_PARTS == 0 else 1
