"""The MLP's first product in e4m3 on Hopper, by ``kernels.common.stationary``.

    a = leaky(h)^2,  h = x @ up.T;   a in bf16, and in e4m3 with a scale for each row

Results are those of ``kernels.mlp.fp8``, which says where the scale comes from.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.common.stationary import (
    DEPTH_FP8,
    HALF,
    KEPT_IN_FP8,
    REGISTERS,
    ROWS,
    RUNS,
    STRIP,
    elements,
    grid,
    keep_strip,
    open_ring,
    product,
    share,
    stream_rows,
    streamed,
)
from kernels.mlp import LEAST_LARGEST
from kernels.mlp.products_hopper import bits, sign_words

STAGES = 8  # two tiles of x, because a strip takes half as much memory as in bf16
LEAST = gl.constexpr(LEAST_LARGEST)
OF_ROWS = gl.constexpr(gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, RUNS.value))))
# All of a strip's columns in each warp, so that their maximum needs no other warp.
IN_A_WARP = gl.constexpr(gl.SliceLayout(1, gl.BlockedLayout([4, 1], [32, 1], [1, 4], [0, 1])))


class Results(NamedTuple):
    """a (N, M) in bf16 and in e4m3, and the signs of ``kernels.mlp.products_hopper``."""

    activated: Any
    rounded: Any
    signs: Any


def launch(
    x: Tensor, up: Tensor, scales: Any, source: Tensor, rounded: Tensor, slope: float
) -> Tensor:
    """Launch ``up_kernel``; return the signs. Arguments are those of ``kernels.mlp.fp8.launch``."""
    rows, hidden = source.shape
    signs = torch.empty((hidden // STRIP.value, rows, 4), dtype=torch.int32, device=x.device)
    up_kernel[grid(rows, hidden, x.device)](
        streamed(x),
        up.contiguous(),
        scales,
        Results(source, rounded, signs),
        rows,
        slope,
        HIDDEN=hidden,
        WIDTH=x.size(1),
        STAGES=STAGES,
    )
    return signs


@gluon.jit(do_not_specialize=["rows"])
def up_kernel(
    x_NC,
    up_MC,
    scales,
    results,
    rows,
    slope,
    HIDDEN: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Write ``Results`` of x (N, C), a TMA descriptor, and up (M, C), both e4m3.

    At N 98,304, C 512, M 2,048: 206 GFLOP; reads x 50 MB (16 times from L2) and up 1 MB, writes a
    403 MB in bf16 and 201 MB in e4m3, signs 25 MB. Half a strip's shared memory is free.
    """
    ring = open_ring(x_NC, STAGES)
    STEPS: gl.constexpr = WIDTH // DEPTH_FP8
    kept = gl.allocate_shared_memory(gl.float8e4nv, [STEPS, DEPTH_FP8, STRIP], KEPT_IN_FP8)
    gl.warp_specialize(
        [
            (activate_tiles, (0, ring, kept, up_MC, scales, results, rows, slope, HIDDEN)),
            (activate_tiles, (1, ring, kept, up_MC, scales, results, rows, slope, HIDDEN)),
            (stream_rows, (x_NC, ring, rows, HIDDEN, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit
def activate_tiles(
    CONSUMER: gl.constexpr, ring, kept, up_MC, scales, results, rows, slope, HIDDEN: gl.constexpr
):
    """Compute a consumer's tiles in ``up_kernel``."""
    keep_strip(up_MC, kept, ring, CONSUMER, 1, kept.shape[0] * DEPTH_FP8, HIDDEN)
    strip, first, every = share(HIDDEN)
    factor = largest_squared(scales.up, HIDDEN) * scales.bound
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(rows, ROWS), 2 * every):
        upper, lower = product(ring, kept, order, CONSUMER)
        activate(upper, tile * ROWS, strip, factor, scales, results, rows, slope, HIDDEN)
        activate(lower, tile * ROWS + HALF, strip, factor, scales, results, rows, slope, HIDDEN)
        order += 2


@gluon.jit
def largest_squared(scale, HIDDEN: gl.constexpr):
    """Return the square of the largest of up's scales, or of ``LEAST_LARGEST``."""
    column = gl.arange(0, STRIP, IN_A_WARP)
    largest = gl.full([STRIP], LEAST, gl.float32, IN_A_WARP)
    for first in range(0, HIDDEN, STRIP):
        largest = gl.maximum(largest, gl.load(scale + first + column))
    most = gl.max(largest, axis=0)
    return most * most


@gluon.jit
def activate(h, row, strip, factor, scales, results, rows, slope, HIDDEN: gl.constexpr):
    """Store a, its scale and the signs of h / (x's scale), whose first row is ``row``."""
    h *= gl.load(scales.up + strip * STRIP + columns())
    leaky = gl.where(h < 0, slope * h, h)
    squares = leaky * leaky
    places, inside = elements(row, strip, rows, HIDDEN)
    rounded = (squares * (1.0 / factor)).to(gl.float8e4nv)
    gl.store(results.rounded + places, rounded, mask=inside)
    line = row + gl.arange(0, HALF, OF_ROWS)
    exists = line < rows
    scale = gl.load(scales.x + line, mask=exists, other=0.0)
    scale *= scale
    activated = squares * scale[:, None, None, None]
    gl.store(results.activated + places, activated.to(gl.bfloat16), mask=inside)
    gl.store(scales.activated + line, scale * factor, mask=exists & (strip == 0))
    negative = h.to(gl.uint32, bitcast=True) >> 31
    words = gl.sum(gl.sum((negative << bits()).to(gl.int32), axis=3), axis=1)
    places, inside = sign_words(row, strip, rows)
    gl.store(results.signs + places, words, mask=inside)


@gluon.jit
def columns():
    """Return the column of each register's element in its strip, (1, 4, 4, 8)."""
    block = gl.arange(0, 4)[None, :, None, None]
    run = gl.arange(0, 4)[None, None, :, None]
    column = gl.arange(0, 8)[None, None, None, :]
    return gl.set_auto_layout(block * 32 + run * 8 + column, RUNS)
