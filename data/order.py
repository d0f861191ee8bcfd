"""The order in which training visits the text: a pure function of seed and counter."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STRIDE_CANDIDATES = 64


@dataclass(frozen=True)
class BlockOrder:
    """The order in which blocks of ``length`` tokens are visited.

    A pass visits each of ``blocks`` blocks once. Block b covers the tokens
    [offset + b * length, offset + (b + 1) * length], the last of which is only a target. The
    j-th visit of pass p is b = (start + j * stride) mod blocks; start, stride and offset are
    drawn from (seed, p). Pass 0 has offset 0; later passes cut the text elsewhere. So that every
    offset leaves space for all blocks, a pass leaves out fewer than 2 * length tokens.
    """

    tokens: int
    length: int
    seed: int

    @property
    def blocks(self) -> int:
        """Blocks in a pass."""
        return max(1, self.tokens // self.length - 1)

    def start(self, counter: int) -> int:
        """Return the first token of the ``counter``-th block since the start of training."""
        number, visit = divmod(counter, self.blocks)
        offsets = min(self.length, self.tokens - self.blocks * self.length)
        first, stride, offset = _draw_pass(self.seed, number, self.blocks, offsets)
        return offset + (first + visit * stride) % self.blocks * self.length

    def window(self, counter: int, seq_len: int) -> int:
        """Return the first token of the ``counter``-th window of ``seq_len`` tokens.

        A block's windows follow each other. A remainder of the block that is shorter than a
        window is left out, so none is if ``seq_len`` divides the block's length.
        """
        block, number = divmod(counter, self.length // seq_len)
        return self.start(block) + number * seq_len


@lru_cache(maxsize=8)
def _draw_pass(seed: int, number: int, blocks: int, offsets: int) -> tuple[int, int, int]:
    """Return first block, stride and token offset of pass ``number``.

    Philox's raw output, unlike numpy's distributions, is promised never to change, and a resumed
    run may meet another numpy.
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, number]))
    first, offset, *strides = (int(raw) for raw in bits.random_raw(2 + STRIDE_CANDIDATES))
    candidates = [1, *(1 + raw % max(1, blocks - 1) for raw in strides)]
    stride = min(candidates, key=lambda candidate: unevenness(blocks, candidate))
    return first % blocks, stride, offset % offsets if number else 0


def unevenness(blocks: int, stride: int) -> float:
    """Return how unevenly multiples of ``stride`` fill a ring of ``blocks``; inf: not coprime.

    It is the largest partial quotient of stride / blocks, which Euclid's algorithm yields: where
    all are small, any run of consecutive multiples is spread almost evenly (Niederreiter, Random
    Number Generation and Quasi-Monte Carlo Methods, 1992, chapter 3). Tiny strides, strides near
    ``blocks`` and strides near a simple fraction of it all have a large one.
    """
    largest = 0
    while stride:
        largest = max(largest, blocks // stride)
        blocks, stride = stride, blocks % stride
    return largest if blocks == 1 else math.inf
