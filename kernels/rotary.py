"""RMSNorm and partial rotary of queries and keys, and the way back: shared by attention's kernels.

The backward pass needs neither raw queries nor raw keys. With r = rotate(x * rstd), saved, and g
its gradient: rotation keeps inner products, so the norm's projection comes before turning back,

    dx = rstd * rotate_back(g - r * mean(g * r)).
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference.attention import gain_limit as largest_gain

LOG2_E = tl.constexpr(1.4426950408889634)
TINY_GAIN = tl.constexpr(1e-30)
# For kernels, that call it with a constant.
gain_limit = triton.constexpr_function(largest_gain)
# 64 rows of 64 are 32 fp32 a thread and 16 bytes a load.
TURN_ROWS, TURN_WARPS = 64, 4


def turned(
    x: Tensor, rope: Tensor, eps: float, kv_heads: int, gain: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``rotate(rmsnorm(x))``, head-major, and each row's 1/rms.

    A row is one position of one head, and the heads of a group lie side by side: row
    ``t * group + member``. Queries, which have a gain, are scaled by it and log2(e) / sqrt(D), so
    that products with keys are the exponents of 2.

    Args:
        x: (B, T, heads, D), each token's heads contiguous.
        rope: (2, T, dims / 2) fp32.
        eps: of the norm.
        kv_heads: G; a group is heads / G of x.
        gain: (heads,) fp32, for queries; taken within +-100 / (sqrt(D) log2(e)).

    Returns:
        (B, G, T * group, D) in x's dtype, and (B, G, rows) fp32, rows padded to ``padded``.
    """
    B, T, heads, D = x.shape
    rows = T * heads // kv_heads
    out = torch.empty((B, kv_heads, rows, D), dtype=x.dtype, device=x.device)
    rstd = torch.empty((B, kv_heads, padded(rows)), dtype=torch.float32, device=x.device)
    turn_kernel[(triton.cdiv(B * T * heads, TURN_ROWS),)](
        x,
        gain,
        rope,
        out,
        rstd,
        B * T * heads,
        T,
        x.stride(1),
        rope.stride(0),
        rstd.size(2),
        eps,
        G=kv_heads,
        GROUP=heads // kv_heads,
        D=D,
        PAIRS=rope.size(-1),
        ROWS=TURN_ROWS,
        num_warps=TURN_WARPS,
    )
    return out, rstd


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
    x_ptr,
    gain_ptr,
    rope_ptr,
    out_ptr,
    rstd_ptr,
    rows,
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
    """out = rotate(x * rstd) * scale, rstd = 1 / sqrt(mean(x^2) + eps).

    x (B, T, G * GROUP, D) -> out (B, G, T * GROUP, D), so that attention reads a tile as one
    contiguous run. At 98,304 tokens and heads of 64 in bf16: 8 queries 201 MB, 4 keys 101 MB, 71 us
    on an H200 for both.
    """
    # Divisions in 32 bits: in 64 they take longer than the rest.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token, head = row // (G * GROUP), row % (G * GROUP)
    batch, position = token // length, token % length
    valid = row < rows
    dim = tl.arange(0, D)
    place = (token.to(tl.int64) * x_stride + head * D)[:, None] + dim[None, :]
    x = tl.load(x_ptr + place, mask=valid[:, None], other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    turned = turn(x, position, valid, rope_ptr, rope_stride, 1.0, D, PAIRS) * rstd[:, None]
    if gain_ptr is not None:
        # Rounded before it is scaled, so that ``unscaled`` mostly has the very same numbers back.
        turned = turned.to(out_ptr.dtype.element_ty).to(tl.float32)
        turned *= query_scale(tl.load(gain_ptr + head), D)[:, None]
    head_index = (batch * G + head // GROUP).to(tl.int64)
    out_row = position * GROUP + head % GROUP
    place = (head_index * length * GROUP + out_row)[:, None] * D + dim[None, :]
    tl.store(out_ptr + place, turned.to(out_ptr.dtype.element_ty), mask=valid[:, None])
    tl.store(rstd_ptr + head_index * rstd_stride + out_row, rstd, mask=valid)


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
