"""RMSNorm and partial rope of queries and keys, forward and backward, for attention's kernels.

    rotated = rotate(x * rstd) * scale;   rstd = 1 / sqrt(mean(x^2) + eps)      scale: queries only

The backward pass needs neither raw queries nor raw keys. Let r = rotate(x * rstd), which is saved,
and g its gradient. Rotation preserves inner products, so the norm's projection comes before
rotating back,

    dx = rstd * rotate_back(g - r * mean(g * r)).

At 98,304 tokens and heads of 64 in bf16, 8 queries and 4 keys are 302 MB in and out.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.reference import gain_limit as largest_gain
from kernels.common.launch import Launch
from kernels.common.math import LOG2_E

# 32 rows of 64 are 32 fp32 a thread: four loads of 16 bytes, and four of their partners.
LAUNCH = Launch(rows=32, warps=2)  # 109 us: H100, 69955f1, bench/results/variants-h100.md

TINY_GAIN = tl.constexpr(1e-30)
# Kernels call it with a constant.
gain_limit = triton.constexpr_function(largest_gain)


class Rope(NamedTuple):
    """Rotary's table (2, T, PAIRS) fp32, cosines and sines, and elements between the two."""

    table: Any
    stride: Any
    PAIRS: Any


class Heads(NamedTuple):
    """Queries or keys: x (B, T, heads, D) as projected and elements between its tokens.

    Their gain or None; out (B, G, rows, D); rstd (B, G, padded rows) and elements between its
    groups.
    """

    x: Any
    stride: Any
    gain: Any
    out: Any
    rstd: Any
    rstd_stride: Any


def rotated(
    q: Tensor, k: Tensor, rope: Tensor, eps: float, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``rotate(rmsnorm(x))`` of queries and keys, head-major, and each row's 1/rms.

    A row is one position of one head. A group is H / G heads, which are neighbours: row ``t * group
    + member``. Queries are scaled by their gain and log2(e) / sqrt(D), so that products with keys
    are exponents of 2.

    Args:
        q: (B, T, H, D), each token's heads contiguous; a window under 2^31 elements, gaps included.
        k: (B, T, G, D), the same.
        rope: (2, T, dims / 2) fp32.
        eps: of the norm.
        gain: (H,) fp32; taken within +-100 / (sqrt(D) log2(e)).

    Returns:
        Queries (B, G, T * group, D) in q's dtype, their 1/rms (B, G, rows) fp32, rows padded to
        ``padded``; keys (B, G, T, D) and their 1/rms.
    """
    B, T, H, D = q.shape
    G = k.size(2)
    query, rstd = rotated_buffers(q, q.shape, G)
    key, key_rstd = rotated_buffers(k, k.shape, G)
    tiles = triton.cdiv(T * H, LAUNCH.rows) + triton.cdiv(T * G, LAUNCH.rows)
    rotate_kernel[(tiles, B)](
        Heads(q, q.stride(1), gain, query, rstd, rstd.size(2)),
        Heads(k, k.stride(1), None, key, key_rstd, key_rstd.size(2)),
        rope_argument(rope),
        T,
        eps,
        G=G,
        GROUP=H // G,
        D=D,
        ROWS=LAUNCH.rows,
        num_warps=LAUNCH.warps,
    )
    return query, rstd, key, key_rstd


def rope_argument(rope: Tensor) -> Rope:
    """Return a kernel's argument of rope (2, T, PAIRS) fp32."""
    return Rope(rope, rope.stride(0), tl.constexpr(rope.size(-1)))


def rotated_buffers(like: Tensor, shape: Sequence[int], kv_heads: int) -> tuple[Tensor, Tensor]:
    """Return empty tensors for heads of ``shape`` (B, T, heads, D) and their rows' 1/rms in fp32.

    Heads are head-major, with device and dtype of ``like``.
    """
    B, T, heads, D = shape
    rows = T * heads // kv_heads
    rstd = like.new_empty((B, kv_heads, padded(rows)), dtype=torch.float32)
    return like.new_empty(B, kv_heads, rows, D), rstd


def padded(rows: int) -> int:
    """Return ``rows`` rounded up to a multiple of 16 bytes of fp32, as TMA requires."""
    return -(-rows // 4) * 4


@triton.jit
def rotate_kernel(
    queries,
    keys,
    rope,
    length,
    eps,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Norm, rotate and scale ROWS rows of one window: of queries in the first tiles, then of keys.

    Results are head-major, so that attention reads a tile as one contiguous run. Keys have groups
    of one.
    """
    tile, window = tl.program_id(0), tl.program_id(1)
    query_tiles = tl.cdiv(length * (G * GROUP), ROWS)
    if tile < query_tiles:
        rotate_rows(queries, rope, tile * ROWS, window, length, eps, G, GROUP, D, ROWS)
    else:
        first = (tile - query_tiles) * ROWS
        rotate_rows(keys, rope, first, window, length, eps, G, 1, D, ROWS)


@triton.jit
def rotate_rows(
    heads,
    rope,
    first,
    window,
    length,
    eps,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """``rotate_kernel`` on ROWS rows from ``first`` of a window; a token's heads are neighbours."""
    PAIRS: tl.constexpr = rope.PAIRS
    # Indices inside a window have 32 bits, because 64 would take longer than the rest.
    row = first + tl.arange(0, ROWS)
    position, head = row // (G * GROUP), row % (G * GROUP)
    valid, dim = position < length, tl.arange(0, D)
    x_ptr = heads.x + window.to(tl.int64) * length * heads.stride
    offset = (position * heads.stride + head * D)[:, None]
    x = tl.load(x_ptr + offset + dim[None, :], mask=valid[:, None])
    if PAIRS > 0:
        # Load the partner in each pair again, from the first cache. From the neighbour's registers
        # it would come through shared memory.
        partner = tl.max_contiguous(tl.multiple_of(dim ^ PAIRS, PAIRS), PAIRS)[None, :]
        other = tl.load(x_ptr + offset + partner, mask=valid[:, None])
        angle = rope.table + (position * PAIRS)[:, None] + (dim % PAIRS)[None, :]
        rotates = valid[:, None] & (dim < 2 * PAIRS)[None, :]
        cos = tl.load(angle, mask=rotates, other=1.0)
        sin = tl.load(angle + rope.stride, mask=rotates, other=0.0)
        sin = tl.where((dim < PAIRS)[None, :], sin, -sin)
    x = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    if PAIRS > 0:
        x = x * cos + other.to(tl.float32) * sin
    x *= rstd[:, None]
    if heads.gain is not None:
        # Rounded before it is scaled, so that ``unscaled`` mostly returns the very same numbers.
        x = x.to(heads.out.dtype.element_ty).to(tl.float32)
        x *= query_scale(tl.load(heads.gain + head), D)[:, None]
    group, out_row = head // GROUP, position * GROUP + head % GROUP
    out_ptr = heads.out + window.to(tl.int64) * (G * GROUP) * length * D
    offset = ((group * length * GROUP + out_row) * D)[:, None] + dim[None, :]
    tl.store(out_ptr + offset, x.to(heads.out.dtype.element_ty), mask=valid[:, None])
    rstd_ptr = heads.rstd + window.to(tl.int64) * G * heads.rstd_stride
    tl.store(rstd_ptr + group * heads.rstd_stride + out_row, rstd, mask=valid)


@triton.jit
def query_scale(gain, D: tl.constexpr):
    """Return gain * log2(e) / sqrt(D), with the gain bounded.

    Exponents of normed queries and keys are then within +-100, so that 2 to their power needs no
    maximum subtracted in fp32. The gain is not zero either, so that the normed query can be
    computed from the scaled one. With 1e-30 scores are still zero.
    """
    gain = tl.minimum(tl.maximum(gain, -gain_limit(D)), gain_limit(D))
    gain = tl.where(gain < 0, tl.minimum(gain, -TINY_GAIN), tl.maximum(gain, TINY_GAIN))
    return gain * (LOG2_E / D**0.5)


@triton.jit
def unscaled(query, scale):
    """Return the rotated queries (rows, D) fp32 that ``rotate_kernel`` scaled by ``scale`` (rows,).

    They are rounded as before. The gain's gradient is a sum of their products, and errors that are
    common to queries and their products with keys would add up in it.
    """
    return (query.to(tl.float32) / scale[:, None]).to(query.dtype).to(tl.float32)


@triton.jit
def rotate_back(x, position, valid, rope, D: tl.constexpr):
    """Rotate the first 2 * PAIRS dims of x (rows, D) fp32 by the negative angles.

    The row is cut into D / (2 * PAIRS) pieces, each of two halves of PAIRS. Only the first piece
    rotates. If PAIRS is a multiple of 8, one thread holds both dims of a pair of a product's
    result, and each thread needs few angles.
    """
    PAIRS: tl.constexpr = rope.PAIRS
    if PAIRS > 0:
        rows: tl.constexpr = x.shape[0]
        pieces: tl.constexpr = D // (2 * PAIRS)
        angle = position[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :]
        cos = tl.load(rope.table + angle, mask=valid[:, None], other=1.0)[:, None, :]
        sin = tl.load(rope.table + rope.stride + angle, mask=valid[:, None], other=0.0)[:, None, :]
        rotates = (tl.arange(0, pieces) == 0)[None, :, None]
        cos, sin = tl.where(rotates, cos, 1.0), tl.where(rotates, -1.0 * sin, 0.0)
        halves = tl.permute(tl.reshape(x, (rows, pieces, 2, PAIRS)), (0, 1, 3, 2))
        first, second = tl.split(halves)
        halves = tl.join(first * cos + second * sin, second * cos - first * sin)
        x = tl.reshape(tl.permute(halves, (0, 1, 3, 2)), (rows, D))
    return x
