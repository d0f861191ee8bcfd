"""The embedding's forward kernel: gather, add, norm and smear a tile of positions.

ids are (B, T) integers, tables and the result (B, T, C) in the compute dtype, arithmetic in fp32.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.common.rows import column_indices, load, row_indices, row_mean, row_tile, store
from kernels.embed.lookup_keys import bigram_rows

# Compiled, not timed: 4 rows 51 registers; 8 rows with 8 warps 64.
LAUNCH = Launch(rows=8, warps=4)  # 93 registers, 5 programs a multiprocessor


class Text(NamedTuple):
    """The ids of N = B * T positions."""

    ids: Any
    """(N,) integers, or keys that begin with them."""
    count: Any
    """N."""
    length: Any
    """T."""
    BOS: Any
    """Id before which SmearGate is closed; None: open everywhere within a row."""
    VOCABULARY: Any = None
    """Of ids that are keys of ``lookup_keys``, where ``embedding_of`` reads bigrams' rows; None: it
    hashes."""

    @classmethod
    def of(
        cls, ids: Tensor, tokens: Tensor, bos_id: int | None, vocabulary: int | None = None
    ) -> "Text":
        """Return the text ``tokens`` (B, T), with ids read from ``ids``."""
        sizes = tokens.numel(), tokens.size(-1)
        return cls(ids, *sizes, constant(bos_id), constant(vocabulary))


class Tables(NamedTuple):
    """Tables in the compute dtype and fp32 vectors that the embedding reads."""

    table: Any
    """(V, C)."""
    projected: Any
    """(BIGRAM_ROWS, C), the bigrams' table projected; None: no bigrams."""
    bigram_scale: Any
    """() fp32, None without bigrams."""
    smear_gate: Any
    """(C,) fp32; (W,) for the kernels of ``kernels.embed.window``."""
    BIGRAM_ROWS: Any
    """None without bigrams."""

    @classmethod
    def of(
        cls,
        table: Tensor,
        projected: Tensor | None,
        bigram_scale: Tensor | None,
        smear_gate: Tensor,
    ) -> "Tables":
        rows = None if projected is None else projected.size(0)
        return cls(table, projected, bigram_scale, smear_gate, constant(rows))


def constant(value: int | None) -> Any:
    """Return ``value`` as a constant of the kernel."""
    return None if value is None else tl.constexpr(value)


def launch_forward(text: Text, tables: Tables, eps: float) -> Tensor:
    """Return the first hidden state, (B, T, C) in the tables' dtype."""
    width, shape = tables.table.size(1), (text.count // text.length, text.length)
    x = torch.empty((*shape, width), dtype=tables.table.dtype, device=text.ids.device)
    embed_forward[(triton.cdiv(text.count, LAUNCH.rows),)](
        text, tables, x, eps, row_tile(width, LAUNCH.rows), **LAUNCH.options
    )
    return x


@triton.jit
def embed_forward(text, tables, x, eps, tile):
    """Write ``current + g (previous - current)`` of a tile of normed rows; g = sigmoid(smear_gate).

    x (N, C). The previous position is looked up and normed again. Its rows were just loaded for the
    neighbour in the same tile, so they come from the first cache.

    At 98,304 x 512 in bf16 it writes 101 MB and gathers 201 MB from tables of 3 MB in the L2 cache.
    About 430 instructions a row and warp bound its time. Shared memory, 2 KB, converts the gate's
    layout.
    """
    rows, columns = row_indices(tl.program_id(0) * tile.ROWS, tile), column_indices(tile)
    positions = rows.to(tl.int32)  # remainders of 64 bits would cost more than the norm
    mask = positions < text.count
    current = embedding_of(text, tables, positions, mask, columns, tile)
    open_gate = continues(text, positions, mask)
    previous = embedding_of(text, tables, positions - 1, open_gate, columns, tile)
    current *= tl.rsqrt(row_mean(current * current, tile) + eps)
    previous *= tl.rsqrt(row_mean(previous * previous, tile) + eps)
    gate = tl.sigmoid(load(tables.smear_gate, columns, columns < tile.C))
    smeared = current + gate * (previous - current)
    store(x, rows * tile.C + columns, smeared, mask & (columns < tile.C))


@triton.jit
def embedding_of(text, tables, positions, mask, columns, tile):
    """Return ``summed_embedding`` of positions."""
    ids = tl.load(text.ids + positions, mask=mask, other=0).to(tl.int32)
    bigrams = ids
    if tables.projected is not None:
        if text.VOCABULARY is not None:
            bigrams = keyed_rows(text, positions, mask, text.VOCABULARY)
        else:
            bigrams = bigram_rows(text.ids, positions, mask, text.length, tables.BIGRAM_ROWS)
    return summed_embedding(tables, ids, bigrams, mask, columns, tile)


@triton.jit
def keyed_rows(text, positions, mask, VOCABULARY: tl.constexpr):
    """Return the bigrams' rows that ``lookup_keys`` wrote behind the ids."""
    keys = tl.load(text.ids + text.count + positions, mask=mask, other=VOCABULARY)
    return keys.to(tl.int32) - VOCABULARY


@triton.jit
def summed_embedding(tables, ids, bigrams, mask, columns, tile):
    """Return the sum of the tables' rows ``ids`` and ``bigrams`` in fp32, zero if masked."""
    inside = mask & (columns < tile.C)
    x = load(tables.table, ids * tile.C + columns, inside)
    if tables.projected is not None:
        scale = tl.load(tables.bigram_scale)
        x += scale * load(tables.projected, bigrams * tile.C + columns, inside)
    return x


@triton.jit
def continues(text, positions, mask):
    """Return whether SmearGate adds the previous position to this one."""
    inner = mask & (positions % text.length != 0)
    if text.BOS is not None:
        inner = inner & (tl.load(text.ids + positions, mask=mask, other=0) != text.BOS)
    return inner
