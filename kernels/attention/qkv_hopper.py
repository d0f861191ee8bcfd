"""Queries, keys and values of one input in bf16 on Hopper, by ``stationary``.

    q, k, v = x @ weight.T;   query, key = rotate(rmsnorm(q)) * scale, rotate(rmsnorm(k))

    x (N, C), weight ((H + 2 G) 64, C) in the order q, k, v; query (B, G, T * H / G, 64), key
    (B, G, T, 64), v (B, T, G, 64): bf16; gain (H,), rope (2, T, PAIRS), rstd, key_rstd (B, G,
    padded rows): fp32; N = B T

The same as ``kernels.attention.rope.rotated`` of the product, but computed from the unrounded fp32
sums. q and k in bf16 would be 151 MB to write and to read again at 98,304 tokens.

A strip of 128 columns is two heads. Four threads hold a row; thread t holds dims 8 t to 8 t + 7 of
either half of a head. The sum of a head's squares then takes two shuffles, and the other half of
each rotary pair one. Four threads store 64 bytes of a row at once.

At N 98,304, C 512, H 8, G 4: 103 GFLOP; reads x 101 MB (8 times from L2), writes query 101, key 50,
v 50 and 5 MB. 8 strips of 16 blocks run on 128 of 132 multiprocessors.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
from typing import Any, NamedTuple

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.attention.rope import rope_argument, rotated_buffers
from kernels.attention.rope_hopper import query_scale
from kernels.common import stationary
from kernels.common.launch import Launch
from kernels.common.stationary import (
    DEPTH,
    HALF,
    KEPT_BY_DEPTH,
    REGISTERS,
    ROWS,
    STAGES,
    STRIP,
    grid,
    keep_strip,
    open_ring,
    product,
    share,
    stream_rows,
    streamed,
)

# Microseconds: H100, N 98,304, C 512, 8/4 heads of 64, febceab, bench/results/variants-h100.
LAUNCH = Launch(rows=ROWS.value, columns=STRIP.value, depth=DEPTH.value, stages=STAGES)  # 176.1
# 4 stages: 198.7. 5: 175.1. cuBLAS alone: 168.6; with ``rotate_kernel``: 280.4
HEAD_DIM = gl.constexpr(64)
PAIRS = (8, 16)  # rotary pairs: all are in the first half of a head's dims, 8 dims a thread
# One half of the dims of half a tile: (row, head, thread of a row, dim of its 8).
DIMS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 4], [8, 0, 0, 0], [0, 1, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        [[16, 0, 0, 0], [32, 0, 0, 0]],
        [],
        [64, 2, 4, 8],
    )
)
OF_ROWS = gl.constexpr(gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, DIMS.value))))
OF_HEADS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, DIMS.value))))
OF_THREADS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, DIMS.value))))
OF_EIGHTS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, DIMS.value))))


class Inputs(NamedTuple):
    """weight and gain: see the module; eps of the norm."""

    weight: Any
    gain: Any
    eps: Any


class Outputs(NamedTuple):
    """See the module."""

    query: Any
    key: Any
    v: Any
    rstd: Any
    key_rstd: Any


class Heads(NamedTuple):
    """H query heads, G key heads."""

    H: Any
    G: Any


class Sizes(NamedTuple):
    """Rows N, positions T of a window, elements between groups of rstd and key_rstd."""

    rows: Any
    length: Any
    rstd_stride: Any
    key_rstd_stride: Any


class Destination(NamedTuple):
    """Rows of a tensor to which a strip's heads are written.

    In units of the tensor's rows: distance of windows, distance of positions, and the row at which
    each head begins (2,).
    """

    tensor: Any
    window_stride: Any
    stride: Any
    begins: Any


def projections_fit_hopper(x: Tensor, heads: int, kv_heads: int, head_dim: int, pairs: int) -> bool:
    """Return whether ``project_kernel`` computes these heads of x (N, C)."""
    hidden = (heads + 2 * kv_heads) * head_dim
    return heads_fit(heads, kv_heads, head_dim, pairs) and stationary.fits(x, hidden)


def heads_fit(heads: int, kv_heads: int, head_dim: int, pairs: int) -> bool:
    """Return whether there is a kernel for these heads with this number of rotary pairs.

    No strip may have a query and a key, or a key and a value.
    """
    even = heads % 2 == 0 and kv_heads % 2 == 0
    return even and head_dim == HEAD_DIM.value and pairs in PAIRS


def project(
    x: Tensor, weight: Tensor, gain: Tensor, rope: Tensor, heads: int, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return query, its 1/rms, key, its 1/rms, and v (B, T, G, D).

    All but v are as ``kernels.attention.rope.rotated`` returns them. x is (B, T, C), weight
    ((H + 2 G) D, C) in the order q, k, v, both bf16; other arguments as for ``rotated``.
    """
    (B, T, C), G, D = x.shape, kv_heads, HEAD_DIM.value
    query, rstd = rotated_buffers(x, (B, T, heads, D), G)
    key, key_rstd = rotated_buffers(x, (B, T, G, D), G)
    v = x.new_empty(B, T, G, D)
    project_kernel[grid(B * T, weight.size(0), x.device)](
        streamed(x.view(-1, C)),
        Inputs(weight.contiguous(), gain, eps),
        rope_argument(rope),
        Outputs(query, key, v, rstd, key_rstd),
        Heads(gl.constexpr(heads), gl.constexpr(G)),
        B * T,
        T,
        rstd.size(2),
        key_rstd.size(2),
        WIDTH=C,
        STAGES=LAUNCH.stages,
    )
    return query, rstd, key, key_rstd, v


# Triton always specialises members of a tuple, so these integers are plain arguments.
@gluon.jit(do_not_specialize=["rows", "length", "rstd_stride", "key_rstd_stride"])
def project_kernel(
    x_NC,
    inputs,
    rope,
    outputs,
    heads,
    rows,
    length,
    rstd_stride,
    key_rstd_stride,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Run one block: two warpgroups multiply and rotate half of its tiles each, one warp loads."""
    ring = open_ring(x_NC, STAGES)
    kept = gl.allocate_shared_memory(gl.bfloat16, [WIDTH // DEPTH, DEPTH, STRIP], KEPT_BY_DEPTH)
    sizes = Sizes(rows, length, rstd_stride, key_rstd_stride)
    gl.warp_specialize(
        [
            (rotate_tiles, (0, ring, kept, inputs, rope, outputs, heads, sizes)),
            (rotate_tiles, (1, ring, kept, inputs, rope, outputs, heads, sizes)),
            (stream_rows, (x_NC, ring, rows, (heads.H + 2 * heads.G) * HEAD_DIM, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit
def rotate_tiles(CONSUMER: gl.constexpr, ring, kept, inputs, rope, outputs, heads, sizes):
    """Compute a consumer's tiles. Angles are loaded before they are needed."""
    HIDDEN: gl.constexpr = (heads.H + 2 * heads.G) * HEAD_DIM
    keep_strip(inputs.weight, kept, ring, CONSUMER, 1, kept.shape[0] * DEPTH, HIDDEN)
    strip, first, every = share(HIDDEN)
    rotated = strip * 2 < heads.H + heads.G
    scale = scales(strip, inputs.gain, heads.H)
    out, statistics = destinations(strip, outputs, heads, sizes)
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(sizes.rows, ROWS), 2 * every):
        row = tile * ROWS
        upper_angles = angles(row, rope, rotated, sizes.length)
        upper, lower = product(ring, kept, order, CONSUMER)
        lower_angles = angles(row + HALF, rope, rotated, sizes.length)
        upper, rstd = rotate(upper, upper_angles, rotated, inputs.eps, rope.PAIRS)
        store(upper, rstd, row, scale, out, statistics, rotated, sizes)
        lower, rstd = rotate(lower, lower_angles, rotated, inputs.eps, rope.PAIRS)
        store(lower, rstd, row + HALF, scale, out, statistics, rotated, sizes)
        order += 2


@gluon.jit
def scales(strip, gain, H: gl.constexpr):
    """Return the factors of the strip's heads (2,): ``query_scale`` of queries, else 1."""
    head = strip * 2 + gl.arange(0, 2, OF_HEADS)
    scale = query_scale(gl.load(gain + head, mask=head < H, other=0.0), HEAD_DIM)
    return gl.where(head < H, scale, 1.0)


@gluon.jit
def destinations(strip, outputs, heads, sizes):
    """Return the destinations of the strip's heads and of their 1/rms."""
    H: gl.constexpr = heads.H
    G: gl.constexpr = heads.G
    GROUP: gl.constexpr = H // G
    length = sizes.length
    first, head = strip * 2, strip * 2 + gl.arange(0, 2, OF_HEADS)
    queries, values = first < H, first >= H + G
    out = gl.where(queries, outputs.query, gl.where(values, outputs.v, outputs.key))
    statistics = gl.where(queries, outputs.rstd, outputs.key_rstd)
    rstd_stride = gl.where(queries, sizes.rstd_stride, sizes.key_rstd_stride)
    group = gl.where(queries, head // GROUP, (head - H) % G)
    member = gl.where(queries, head % GROUP, 0)
    stride = gl.where(queries, GROUP, gl.where(values, G, 1))
    window_stride = gl.where(queries, GROUP, 1) * (G * length)
    begins = gl.where(values, group, group * (stride * length) + member)
    return (
        Destination(out, window_stride, stride, begins),
        Destination(statistics, G * rstd_stride, stride, group * rstd_stride + member),
    )


@gluon.jit
def angles(first_row, rope, rotated, length):
    """Return cos and sin (64, 1, 4, 8) for the first half of the dims of 64 rows.

    They are the factors of each dim and of its partner in the pair; 1 and 0 if it does not rotate.
    """
    PAIRS: gl.constexpr = rope.PAIRS
    THREADS: gl.constexpr = PAIRS // 8
    position = (first_row + gl.arange(0, HALF, OF_ROWS)) % length
    thread = gl.arange(0, 4, OF_THREADS)[None, None, :, None]
    pair = thread % THREADS * 8 + gl.arange(0, 8, OF_EIGHTS)[None, None, None, :]
    pointers = rope.table + ((position * PAIRS)[:, None, None, None] + pair)
    rotates = rotated & (thread < 2 * THREADS)
    cos = gl.load(pointers, mask=rotates, other=1.0)
    sin = gl.load(pointers + rope.stride, mask=rotates, other=0.0)
    return cos, gl.where(thread < THREADS, sin, -sin)


@gluon.jit
def rotate(sums, cos_and_sin, rotated, eps, PAIRS: gl.constexpr):
    """Return the left (rotated) and right halves of half a tile's heads, and their rows' 1/rms.

    The halves are not multiplied by 1/rms yet; values pass unchanged, with 1 instead.
    """
    halves = sums.reshape((HALF, 2, 2, 4, 8)).permute((0, 1, 3, 4, 2))
    left, right = gl.split(halves)
    left, right = gl.convert_layout(left, DIMS), gl.convert_layout(right, DIMS)
    squares = gl.sum(gl.sum(left * left + right * right, axis=3), axis=2)
    rstd = gl.where(rotated, gl.rsqrt(squares / HEAD_DIM + eps), 1.0)
    cos, sin = cos_and_sin
    left = left * cos + neighbours(left, PAIRS // 8) * sin
    return (left, right), rstd


@gluon.jit
def store(halves, rstd, first_row, scale, out, statistics, rotated, sizes):
    """Norm, scale and store half a tile, and its rows' 1/rms."""
    left, right = halves
    row = first_row + gl.arange(0, HALF, OF_ROWS)
    inside = row < sizes.rows
    line = lines(out, row, sizes.length)
    pointers = out.tensor + (line.to(gl.int64) * HEAD_DIM)[:, :, None, None]
    pointers += gl.arange(0, 4, OF_THREADS)[None, None, :, None] * 8
    pointers += gl.arange(0, 8, OF_EIGHTS)[None, None, None, :]
    mask = inside[:, None, None, None]
    gl.store(pointers, scaled(left, rstd, scale), mask=mask)
    gl.store(pointers + HEAD_DIM // 2, scaled(right, rstd, scale), mask=mask)
    line = lines(statistics, row, sizes.length)
    gl.store(statistics.tensor + line, rstd, mask=inside[:, None] & rotated)


@gluon.jit
def lines(destination, row, length):
    """Return the rows of the destination's tensor for 64 rows of both heads (64, 2)."""
    within = row // length * destination.window_stride + row % length * destination.stride
    return within[:, None] + destination.begins[None, :]


@gluon.jit
def scaled(x, rstd, scale):
    """Return x * rstd * scale in bf16, rounded before it is scaled: see ``rope.unscaled``."""
    x *= rstd[:, :, None, None]
    # Round two at once, because Triton rounds one at a time, at a quarter of the speed.
    rounded = gl.inline_asm_elementwise(
        """{ .reg .b32 pair;
        cvt.rn.bf16x2.f32 pair, $3, $2;
        shl.b32 $0, pair, 16;
        and.b32 $1, pair, 0xffff0000; }""",
        "=r,=r,f,f",
        [x],
        dtype=gl.float32,
        is_pure=True,
        pack=2,
    )
    return (rounded * scale[None, :, None, None]).to(gl.bfloat16)


@gluon.jit
def neighbours(x, THREADS: gl.constexpr):
    """Return x of the thread of the same row that is THREADS before or after."""
    return gl.inline_asm_elementwise(
        exchange(THREADS), "=f,f", [x], dtype=gl.float32, is_pure=False, pack=1
    )


@gluon.constexpr_function
def exchange(threads):
    return f"shfl.sync.bfly.b32 $0, $1, {threads}, 31, -1;"
