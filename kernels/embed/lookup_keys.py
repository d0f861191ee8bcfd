"""The rows of its tables that the embedding looks up at each position."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.rows import store
from kernels.embed.reference import HASH_CURRENT, HASH_PREVIOUS

BLOCK = 1_024  # positions of a program
BEYOND = tl.constexpr(1 << 16)  # no token
CURRENT, PREVIOUS = tl.constexpr(HASH_CURRENT), tl.constexpr(HASH_PREVIOUS)


def lookup_keys(
    tokens: Tensor, vocabulary: int, bigram_count: int | None, edges: Tensor | None = None
) -> Tensor:
    """Return the rows that N positions of ``tokens`` look up in the two tables, laid end to end.

    Returns:
        (N,) ids, followed by (N,) vocabulary + row of the bigrams' table if there are bigrams.
    """
    count, segments = tokens.numel(), vocabulary + (bigram_count or 0)
    # Short keys sort in half the passes.
    key_type = torch.int16 if segments < 2**15 else torch.int32
    lists = 1 if bigram_count is None else 2
    keys = torch.empty(lists * count, dtype=key_type, device=tokens.device)
    lookup_keys_kernel[(triton.cdiv(count, BLOCK),)](
        tokens,
        keys,
        count,
        tokens.size(-1),
        edges,
        VOCABULARY=vocabulary,
        BIGRAM_ROWS=bigram_count,
        EDGES=0 if edges is None else edges.size(1),
        BLOCK=BLOCK,
    )
    return keys


@triton.jit
def bigram_rows(tokens, positions, mask, length, BIGRAM_ROWS: tl.constexpr):
    """Return the bigram table's rows, as ``reference.bigram_hash``, in int32 that wraps."""
    inner = mask & (positions % length != 0)
    current = tl.load(tokens + positions, mask=mask, other=0).to(tl.int32)
    previous = tl.load(tokens + positions - 1, mask=inner, other=0).to(tl.int32)
    mixed = (CURRENT * current) ^ (PREVIOUS * previous)
    remainder = mixed % (BIGRAM_ROWS - 1)
    remainder = tl.where(remainder < 0, remainder + (BIGRAM_ROWS - 1), remainder)
    return tl.where(inner, remainder, BIGRAM_ROWS - 1)


@triton.jit
def edge_rows(
    tokens,
    positions,
    mask,
    length,
    edges,
    BIGRAM_ROWS: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Return the bigram table's rows, as ``reference.bigram_rows`` finds them among sorted edges.

    The bits of ``before``, the number of edges that come before a position's own, are found from
    the highest down. edges (2, EDGES) int32.
    """
    inner = mask & (positions % length != 0)
    current = tl.load(tokens + positions, mask=mask, other=0).to(tl.int32)
    previous = tl.load(tokens + positions - 1, mask=inner, other=0).to(tl.int32)
    before = tl.zeros_like(current)
    for bit in tl.static_range(30, -1, -1):
        if EDGES >> bit > 0:
            at = before + (1 << bit)
            first = tl.load(edges + at - 1, mask=at <= EDGES, other=BEYOND)
            second = tl.load(edges + EDGES + at - 1, mask=at <= EDGES, other=BEYOND)
            lower = (first < current) | ((first == current) & (second < previous))
            before = tl.where(lower, at, before)
    first = tl.load(edges + before, mask=before < EDGES, other=BEYOND)
    second = tl.load(edges + EDGES + before, mask=before < EDGES, other=BEYOND)
    rest = EDGES + bigram_rows(tokens, positions, mask, length, BIGRAM_ROWS - EDGES)
    return tl.where(inner & (first == current) & (second == previous), before, rest)


@triton.jit
def lookup_keys_kernel(
    tokens,
    keys,
    count,
    length,
    edges,
    VOCABULARY: tl.constexpr,
    BIGRAM_ROWS: tl.constexpr,
    EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write keys of ids (N,): the ids, followed by VOCABULARY + their bigrams' rows, if any.

    edges (2, EDGES) int32; None without edges.
    """
    positions = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = positions < count
    store(keys, positions, tl.load(tokens + positions, mask=mask, other=0), mask)
    if BIGRAM_ROWS is not None:
        if EDGES:
            found = edge_rows(tokens, positions, mask, length, edges, BIGRAM_ROWS, EDGES)
        else:
            found = bigram_rows(tokens, positions, mask, length, BIGRAM_ROWS)
        store(keys, count + positions, VOCABULARY + found, mask)
