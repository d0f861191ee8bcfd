"""The MLP's two products in bf16 on Hopper, by ``kernels.common.stationary``.

    a  = leaky(h)^2,  h = x @ up.T
    dh = (dy @ down) * 2 leaky(h) leaky'(h)

x, dy (N, C), up (M, C), down (C, M), a and dh (N, M). Results equal those of
``kernels.mlp.products``; only the packing of the signs differs.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.common.stationary import (
    DEPTH,
    HALF,
    KEPT_BY_COLUMN,
    KEPT_BY_DEPTH,
    REGISTERS,
    ROWS,
    RUNS,
    STAGES,
    STRIP,
    elements,
    grid,
    keep_strip,
    open_ring,
    prefetch,
    product,
    share,
    stream_rows,
    streamed,
)

WORDS = gl.constexpr(gl.SliceLayout(1, gl.SliceLayout(3, RUNS.value)))


def activated_product(x: Tensor, up: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Return a (N, M) of x (N, C) and up (M, C), bf16, and h's signs (M / 128, N, 4) int32."""
    rows, hidden = x.size(0), up.size(0)
    activated = x.new_empty(rows, hidden)
    signs = x.new_empty((hidden // STRIP.value, rows, 4), dtype=torch.int32)
    given = (streamed(x), up.contiguous(), activated, signs, rows, slope)
    up_kernel[grid(rows, hidden, x.device)](*given, HIDDEN=hidden, WIDTH=x.size(1), STAGES=STAGES)
    return activated, signs


def activation_gradient(
    dy: Tensor, down: Tensor, activated: Tensor, signs: Tensor, slope: float
) -> Tensor:
    """Return dh (N, M) of dy (N, C), down (C, M) and what ``activated_product`` returned."""
    rows, hidden = activated.shape
    dh = torch.empty_like(activated)
    given = (streamed(dy), down.contiguous(), activated, signs, dh, rows, slope)
    gradient_kernel[grid(rows, hidden, dy.device)](
        *given, HIDDEN=hidden, WIDTH=dy.size(1), STAGES=STAGES
    )
    return dh


@gluon.jit(do_not_specialize=["rows"])
def up_kernel(
    x_NC,
    up_MC,
    activated_NM,
    signs,
    rows,
    slope,
    HIDDEN: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Write ``a = leaky(h)^2``, h = x @ up.T, and the signs of h.

    x (N, C): TMA descriptor; up (M, C), a (N, M): bf16; sums and activation in fp32. signs
    (M / 128, N, 4) int32: bit 8 i + c of word t is the sign at column 32 i + 8 t + c.

    At N 98,304, C 512, M 1,536: 155 GFLOP; reads x 101 MB (12 times from L2) and up 1.6 MB, writes
    a 302 MB and signs 19 MB.
    """
    ring = open_ring(x_NC, STAGES)
    kept = gl.allocate_shared_memory(gl.bfloat16, [WIDTH // DEPTH, DEPTH, STRIP], KEPT_BY_DEPTH)
    results = (activated_NM, signs, rows, slope)
    gl.warp_specialize(
        [
            (activate_tiles, (0, ring, kept, up_MC, results, HIDDEN)),
            (activate_tiles, (1, ring, kept, up_MC, results, HIDDEN)),
            (stream_rows, (x_NC, ring, rows, HIDDEN, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit(do_not_specialize=["rows"])
def gradient_kernel(
    dy_NC,
    down_CM,
    activated_NM,
    signs,
    dh_NM,
    rows,
    slope,
    HIDDEN: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Write ``dh = (dy @ down) * 2 leaky(h) leaky'(h)``, the factor from a and the signs of h.

    dy (N, C): TMA descriptor; down (C, M), a and dh (N, M): bf16; signs as ``up_kernel`` has them.

    At N 98,304, C 512, M 1,536: 155 GFLOP; reads dy 101 MB (12 times from L2), down 1.6 MB, a 302
    MB and signs 19 MB, writes dh 302 MB.
    """
    ring = open_ring(dy_NC, STAGES)
    kept = gl.allocate_shared_memory(gl.bfloat16, [WIDTH // DEPTH, DEPTH, STRIP], KEPT_BY_COLUMN)
    results = (activated_NM, signs, rows, slope, dh_NM)
    gl.warp_specialize(
        [
            (derive_tiles, (0, ring, kept, down_CM, results, HIDDEN)),
            (derive_tiles, (1, ring, kept, down_CM, results, HIDDEN)),
            (stream_rows, (dy_NC, ring, rows, HIDDEN, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit
def activate_tiles(CONSUMER: gl.constexpr, ring, kept, up_MC, results, HIDDEN: gl.constexpr):
    """Compute a consumer's tiles in ``up_kernel``."""
    keep_strip(up_MC, kept, ring, CONSUMER, 1, kept.shape[0] * DEPTH, HIDDEN)
    strip, first, every = share(HIDDEN)
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(results[2], ROWS), 2 * every):
        upper, lower = product(ring, kept, order, CONSUMER)
        activate(upper, tile * ROWS, strip, results, HIDDEN)
        activate(lower, tile * ROWS + HALF, strip, results, HIDDEN)
        order += 2


@gluon.jit
def derive_tiles(CONSUMER: gl.constexpr, ring, kept, down_CM, results, HIDDEN: gl.constexpr):
    """Compute a consumer's tiles in ``gradient_kernel``."""
    keep_strip(down_CM, kept, ring, CONSUMER, HIDDEN, 1, HIDDEN)
    strip, first, every = share(HIDDEN)
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(results[2], ROWS), 2 * every):
        prefetch(results[0] + strip * STRIP, tile * ROWS, results[2], HIDDEN, 2)
        upper, lower = product(ring, kept, order, CONSUMER)
        derive(upper, tile * ROWS, strip, results, HIDDEN)
        derive(lower, tile * ROWS + HALF, strip, results, HIDDEN)
        order += 2


@gluon.jit
def activate(h, row, strip, results, HIDDEN: gl.constexpr):
    """Store ``leaky(h)^2`` and the signs of h, whose first row is ``row``."""
    activated_NM, signs, rows, slope = results
    leaky = gl.where(h < 0, slope * h, h)
    places, inside = elements(row, strip, rows, HIDDEN)
    gl.store(activated_NM + places, (leaky * leaky).to(gl.bfloat16), mask=inside)
    negative = h.to(gl.uint32, bitcast=True) >> 31
    words = gl.sum(gl.sum((negative << bits()).to(gl.int32), axis=3), axis=1)
    places, inside = sign_words(row, strip, rows)
    gl.store(signs + places, words, mask=inside)


@gluon.jit
def derive(da, row, strip, results, HIDDEN: gl.constexpr):
    """Store ``da * 2 leaky(h) leaky'(h)`` for da, whose first row is ``row``."""
    activated_NM, signs, rows, slope, dh_NM = results
    places, inside = sign_words(row, strip, rows)
    words = gl.load(signs + places, mask=inside, other=0)
    places, inside = elements(row, strip, rows, HIDDEN)
    activated = gl.load(activated_NM + places, mask=inside, other=0).to(gl.float32)
    negative = words[:, None, :, None] & (1 << bits())
    twice_slope = gl.where(negative != 0, -2.0 * slope, 2.0)
    dh = (da * twice_slope) * gl.sqrt(activated)
    gl.store(dh_NM + places, dh.to(gl.bfloat16), mask=inside)


@gluon.jit
def bits():
    """Return the bit of an element's sign in its word, a constant of each register."""
    block = gl.arange(0, 4)[None, :, None, None]
    column = gl.arange(0, 8)[None, None, None, :]
    return gl.set_auto_layout(block * 8 + column, RUNS)


@gluon.jit
def sign_words(first_row, strip, rows):
    """Return offsets of a half tile's sign words (64, 4), one a thread and row, and which exist."""
    row = first_row + gl.arange(0, HALF, gl.SliceLayout(1, WORDS))[:, None]
    run = gl.arange(0, 4, gl.SliceLayout(0, WORDS))[None, :]
    return (strip.to(gl.int64) * rows + row) * 4 + run, row < rows
