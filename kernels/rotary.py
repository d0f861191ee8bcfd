"""RMSNorm and partial rotary of queries and keys, and the way back: shared by attention's kernels.

The backward pass needs neither raw queries nor raw keys. With r = rotate(x * rstd), saved, and g the
gradient of r: rotation keeps inner products, so the norm's projection can be done before turning
back,

    dx = rstd * rotate_back(g - r * mean(g * r)).
"""

# pyright: basic, reportIndexIssue=false
import torch
import triton
import triton.language as tl
from torch import Tensor

# Found by count, to be tuned: 64 rows x 64 dims are 32 fp32 a thread, 16 bytes a load.
KEY_ROWS, KEY_WARPS = 64, 4


def turned_keys(k: Tensor, rope: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``rotate(rmsnorm(k))`` (B, G, T, D), and each row's 1/rms (B, G, T) fp32.

    Args:
        k: (B, T, G, D), each token's heads contiguous.
        rope: (2, T, dims / 2) fp32.
        eps: of the norm.
    """
    B, T, G, D = k.shape
    key = torch.empty((B, G, T, D), dtype=k.dtype, device=k.device)
    rstd = torch.empty((B, G, T), dtype=torch.float32, device=k.device)
    grid = (triton.cdiv(B * T * G, KEY_ROWS),)
    keys_kernel[grid](
        k,
        rope,
        key,
        rstd,
        B * T * G,
        T,
        k.stride(1),
        rope.stride(0),
        eps,
        G=G,
        D=D,
        PAIRS=rope.size(-1),
        ROWS=KEY_ROWS,
        num_warps=KEY_WARPS,
    )
    return key, rstd


@triton.jit
def keys_kernel(
    k_ptr,
    rope_ptr,
    key_ptr,
    rstd_ptr,
    rows,
    length,
    k_stride,
    rope_stride,
    eps,
    G: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """key = rotate(k * rstd), rstd = 1 / sqrt(mean(k^2) + eps).

    k (B, T, G, D) bf16 -> key (B, G, T, D) bf16, rstd (B, G, T) fp32: head-major, so that attention
    reads a tile of keys as one contiguous run. Moves 102 MB at 98,304 tokens, 4 heads of 64: 24 us
    on an H200. The partner of each rotary dim is loaded a second time (from L1), which is cheaper
    than exchanging it between threads.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // G, row % G
    position = (token % length).to(tl.int32)
    valid = row < rows
    x, partner = load_with_partner(k_ptr, token * k_stride + head * D, valid, D, PAIRS)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    key = turn(x, partner, position, valid, rope_ptr, rope_stride, 1.0, D, PAIRS) * rstd[:, None]
    out_row = (token // length * G + head) * length + position
    out = out_row[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(key_ptr + out, key.to(key_ptr.dtype.element_ty), mask=valid[:, None])
    tl.store(rstd_ptr + out_row, rstd, mask=valid)


@triton.jit
def load_with_partner(ptr, row_offset, valid, D: tl.constexpr, PAIRS: tl.constexpr):
    """Rows of D in fp32, and the same rows with the two halves of the rotary dims exchanged."""
    dim = tl.arange(0, D)
    row_ptr = ptr + row_offset[:, None]
    x = tl.load(row_ptr + dim[None, :], mask=valid[:, None], other=0.0)
    swapped = partner_dim(D, PAIRS)
    partner = tl.load(
        row_ptr + swapped[None, :], mask=valid[:, None] & (dim < 2 * PAIRS)[None, :], other=0.0
    )
    return x.to(tl.float32), partner.to(tl.float32)


@triton.jit
def partner_dim(D: tl.constexpr, PAIRS: tl.constexpr):
    """The dim that each dim is rotated with; one that is not rotated is its own partner."""
    dim = tl.arange(0, D)
    swapped = tl.where(dim < PAIRS, dim + PAIRS, tl.where(dim < 2 * PAIRS, dim - PAIRS, dim))
    if PAIRS % 8 == 0:  # the halves are whole 16-byte loads
        swapped = tl.max_contiguous(tl.multiple_of(swapped, 8), 8)
    return swapped


@triton.jit
def turn(
    x,
    partner,
    position,
    valid,
    rope_ptr,
    rope_stride,
    direction: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """``x * cos +- partner * sin`` on the first 2 * PAIRS dims; direction -1.0 turns back."""
    if PAIRS > 0:
        dim = tl.arange(0, D)
        angle = position[:, None] * PAIRS + (dim % PAIRS)[None, :]
        rotary = valid[:, None] & (dim < 2 * PAIRS)[None, :]
        cos = tl.load(rope_ptr + angle, mask=rotary, other=1.0)
        sin = tl.load(rope_ptr + rope_stride + angle, mask=rotary, other=0.0)
        sign = tl.where(dim < PAIRS, direction, -direction)
        x = x * cos + partner * (sin * sign[None, :])
    return x


@triton.jit
def norm_backward(
    gradient,
    turned,
    rstd,
    position,
    valid,
    rope_ptr,
    rope_stride,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Gradient of what was normed and turned, from that of the result; all (rows, D) fp32."""
    inner = tl.sum(gradient * turned, 1) / D
    gradient = (gradient - turned * inner[:, None]) * rstd[:, None]
    swapped = tl.broadcast_to(partner_dim(D, PAIRS)[None, :], gradient.shape)
    partner = tl.gather(gradient, swapped, axis=1)
    return turn(gradient, partner, position, valid, rope_ptr, rope_stride, -1.0, D, PAIRS)
