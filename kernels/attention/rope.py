"""RMSNorm and partial rotary of queries and keys, and the way back: shared by attention's kernels.

The backward pass needs neither raw queries nor raw keys. With r = rotate(x * rstd), saved, and g
its gradient: rotation keeps inner products, so the norm's projection comes before turning back,

    dx = rstd * rotate_back(g - r * mean(g * r)).
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.reference import gain_limit as largest_gain

LOG2_E = tl.constexpr(1.4426950408889634)
TINY_GAIN = tl.constexpr(1e-30)
# For kernels, that call it with a constant.
gain_limit = triton.constexpr_function(largest_gain)
# 32 rows of 64 are 32 fp32 a thread: four loads of 16 bytes, and their partners'.
TURN_ROWS, TURN_WARPS = 32, 2


def turned(
    q: Tensor, k: Tensor, rope: Tensor, eps: float, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``rotate(rmsnorm(x))`` of queries and keys, head-major, and each row's 1/rms.

    A row is one position of one head, and the heads of a group lie side by side: row
    ``t * group + member``, where a group is H / G heads. Queries are scaled by their gain and
    log2(e) / sqrt(D), so that products with keys are the exponents of 2.

    Args:
        q: (B, T, H, D), each token's heads contiguous; a window under 2^31 elements, gaps included.
        k: (B, T, G, D), the same.
        rope: (2, T, dims / 2) fp32.
        eps: of the norm.
        gain: (H,) fp32; taken within +-100 / (sqrt(D) log2(e)).

    Returns:
        Queries (B, G, T * group, D) in q's dtype, their 1/rms (B, G, rows) fp32, rows padded to
        ``padded``; keys (B, G, T, D) and theirs.
    """
    B, T, H, D = q.shape
    G = k.size(2)
    query, rstd = room_for(q, q.shape, G)
    key, key_rstd = room_for(k, k.shape, G)
    tiles = triton.cdiv(T * H, TURN_ROWS) + triton.cdiv(T * G, TURN_ROWS)
    turn_kernel[(tiles, B)](
        q,
        k,
        gain,
        rope,
        query,
        key,
        rstd,
        key_rstd,
        T,
        q.stride(1),
        k.stride(1),
        rope.stride(0),
        rstd.size(2),
        key_rstd.size(2),
        eps,
        G=G,
        GROUP=H // G,
        D=D,
        PAIRS=rope.size(-1),
        ROWS=TURN_ROWS,
        num_warps=TURN_WARPS,
    )
    return query, rstd, key, key_rstd


def room_for(like: Tensor, shape: Sequence[int], kv_heads: int) -> tuple[Tensor, Tensor]:
    """For heads of ``shape`` (B, T, heads, D), head-major, in the dtype and on the device of
    ``like``, and for their rows' 1/rms."""
    B, T, heads, D = shape
    rows = T * heads // kv_heads
    rstd = like.new_empty((B, kv_heads, padded(rows)), dtype=torch.float32)
    return like.new_empty(B, kv_heads, rows, D), rstd


def padded(rows: int) -> int:
    """Rows of which fp32 statistics fill whole pieces of 16 bytes, as TMA asks."""
    return -(-rows // 4) * 4


@triton.jit
def query_scale(gain, D: tl.constexpr):
    """gain * log2(e) / sqrt(D), its exponents within +-100 for normed queries and keys: 2 to their
    power needs no maximum taken off in fp32. Kept off zero too, so that the normed query can be had
    back from the scaled one; 1e-30 leaves scores at zero all the same."""
    gain = tl.minimum(tl.maximum(gain, -gain_limit(D)), gain_limit(D))
    gain = tl.where(gain < 0, tl.minimum(gain, -TINY_GAIN), tl.maximum(gain, TINY_GAIN))
    return gain * (LOG2_E / D**0.5)


@triton.jit
def unscaled(query, scale):
    """The turned queries (rows, D) fp32 that ``turn_kernel`` scaled by ``scale`` (rows,).

    Rounded as they were: the gain's gradient is a sum along them, and errors that queries and their
    products with keys have in common would add up in it.
    """
    return (query.to(tl.float32) / scale[:, None]).to(query.dtype).to(tl.float32)


@triton.jit
def turn_kernel(
    q_ptr,
    k_ptr,
    gain_ptr,
    rope_ptr,
    query_ptr,
    key_ptr,
    rstd_ptr,
    key_rstd_ptr,
    length,
    q_stride,
    k_stride,
    rope_stride,
    rstd_stride,
    key_rstd_stride,
    eps,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out = rotate(x * rstd) * scale, rstd = 1 / sqrt(mean(x^2) + eps); of k without the scale.

    q (B, T, G * GROUP, D) -> query (B, G, T * GROUP, D), so that attention reads a tile as one
    contiguous run; k likewise, with a group of one. A program takes ROWS rows of a window of
    either: those of q are its first tiles. At 98,304 tokens and heads of 64 in bf16: 8 queries
    201 MB, 4 keys 101 MB, and 5 MB of 1/rms: 72 us at 4275 GB/s. About 150 instructions for four
    rows and a warp are 48 us of issue slots.
    """
    tile, window = tl.program_id(0), tl.program_id(1)
    query_tiles = tl.cdiv(length * (G * GROUP), ROWS)
    if tile < query_tiles:
        turn_rows(
            q_ptr,
            gain_ptr,
            rope_ptr,
            query_ptr,
            rstd_ptr,
            tile * ROWS,
            window,
            length,
            q_stride,
            rope_stride,
            rstd_stride,
            eps,
            G,
            GROUP,
            D,
            PAIRS,
            ROWS,
        )
    else:
        turn_rows(
            k_ptr,
            None,
            rope_ptr,
            key_ptr,
            key_rstd_ptr,
            (tile - query_tiles) * ROWS,
            window,
            length,
            k_stride,
            rope_stride,
            key_rstd_stride,
            eps,
            G,
            1,
            D,
            PAIRS,
            ROWS,
        )


@triton.jit
def turn_rows(
    x_ptr,
    gain_ptr,
    rope_ptr,
    out_ptr,
    rstd_ptr,
    first,
    window,
    length,
    x_stride,
    rope_stride,
    rstd_stride,
    eps,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """``turn_kernel`` on ROWS rows from ``first`` of a window, a token's heads after each other."""
    # 32 bits inside a window, where 64 would take longer than the rest.
    row = first + tl.arange(0, ROWS)
    position, head = row // (G * GROUP), row % (G * GROUP)
    valid, dim = position < length, tl.arange(0, D)
    x_ptr += window.to(tl.int64) * length * x_stride
    place = (position * x_stride + head * D)[:, None]
    x = tl.load(x_ptr + place + dim[None, :], mask=valid[:, None])
    if PAIRS > 0:
        # The other of each pair comes from the first cache, where it was just loaded to: in
        # registers it is a neighbour's, and the way there leads through shared memory.
        partner = tl.max_contiguous(tl.multiple_of(dim ^ PAIRS, PAIRS), PAIRS)[None, :]
        other = tl.load(x_ptr + place + partner, mask=valid[:, None])
        angle = rope_ptr + (position * PAIRS)[:, None] + (dim % PAIRS)[None, :]
        turns = valid[:, None] & (dim < 2 * PAIRS)[None, :]
        cos = tl.load(angle, mask=turns, other=1.0)
        sin = tl.load(angle + rope_stride, mask=turns, other=0.0)
        sin = tl.where((dim < PAIRS)[None, :], sin, -sin)
    x = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    if PAIRS > 0:
        x = x * cos + other.to(tl.float32) * sin
    x *= rstd[:, None]
    if gain_ptr is not None:
        # Rounded before it is scaled, so that ``unscaled`` mostly has the very same numbers back.
        x = x.to(out_ptr.dtype.element_ty).to(tl.float32)
        x *= query_scale(tl.load(gain_ptr + head), D)[:, None]
    group, out_row = head // GROUP, position * GROUP + head % GROUP
    out_ptr += window.to(tl.int64) * (G * GROUP) * length * D
    place = ((group * length * GROUP + out_row) * D)[:, None] + dim[None, :]
    tl.store(out_ptr + place, x.to(out_ptr.dtype.element_ty), mask=valid[:, None])
    rstd_ptr += window.to(tl.int64) * G * rstd_stride
    tl.store(rstd_ptr + group * rstd_stride + out_row, rstd, mask=valid)


@triton.jit
def turn(
    x,
    position,
    valid,
    rope_ptr,
    rope_stride,
    direction: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Turn the first 2 * PAIRS dims of x (rows, D) fp32; direction -1.0 turns back.

    The row is cut into D / (2 * PAIRS) pieces, each of two halves that lie PAIRS apart, of which
    only the first piece turns: in the registers of a product's result both of a pair are one
    thread's if PAIRS is a multiple of 8, and each thread needs only its own few angles.
    """
    if PAIRS > 0:
        rows: tl.constexpr = x.shape[0]
        pieces: tl.constexpr = D // (2 * PAIRS)
        angle = position[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :]
        cos = tl.load(rope_ptr + angle, mask=valid[:, None], other=1.0)[:, None, :]
        sin = tl.load(rope_ptr + rope_stride + angle, mask=valid[:, None], other=0.0)[:, None, :]
        turns = (tl.arange(0, pieces) == 0)[None, :, None]
        cos, sin = tl.where(turns, cos, 1.0), tl.where(turns, direction * sin, 0.0)
        halves = tl.permute(tl.reshape(x, (rows, pieces, 2, PAIRS)), (0, 1, 3, 2))
        first, second = tl.split(halves)
        halves = tl.join(first * cos + second * sin, second * cos - first * sin)
        x = tl.reshape(tl.permute(halves, (0, 1, 3, 2)), (rows, D))
    return x
