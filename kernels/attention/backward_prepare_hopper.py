"""``backward_prepare`` on Hopper, with the product that makes dy, by ``stationary``.

    dy = doutput @ weight;   the rest as in ``kernels.attention.backward_prepare``

doutput (N, C), the gradient of the output projection's result, and weight (C, H 64), bf16; N = B T.
dy stays in fp32 in registers. With a gate delta is dy . y of that dy, not of the rounded dout.

A strip of 128 columns is the two query heads of one group. Four threads hold a row, and each has
the same 16 dims of both heads and of their value: all sums over a head take two shuffles.

At N 98,304, C 512, H 8, G 4 with XSA and gate: 52 GFLOP; reads doutput 101 MB (4 times from L2), y
101, v 50 and 6 MB, writes dout 101, dv 50 and 5 MB. A product and ``backward_prepare`` move 202 MB
more.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportUnboundVariable=false
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.attention.backward_prepare import Gradients, Inputs, Outputs
from kernels.attention.saved import Saved
from kernels.attention.visible import problem_argument
from kernels.common import stationary
from kernels.common.stationary import (
    DEPTH,
    HALF,
    KEPT_BY_COLUMN,
    REGISTERS,
    ROWS,
    STAGES,
    STRIP,
    grid,
    keep_strip,
    open_ring,
    prefetch,
    product,
    share,
    stream_rows,
    streamed,
)

HEAD_DIM = gl.constexpr(64)
GROUP = 2  # heads of a strip
# A quarter of a tile: (row, head, thread of a row, half of the dims, dim of the thread's 8).
QUARTER = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 4], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0]],
        [[0, 0, 1, 0, 0], [0, 0, 2, 0, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0], [4, 0, 0, 0, 0]],
        [[8, 0, 0, 0, 0], [16, 0, 0, 0, 0]],
        [],
        [32, 2, 4, 2, 8],
    )
)
OF_LINES = gl.constexpr(gl.SliceLayout(2, gl.SliceLayout(3, gl.SliceLayout(4, QUARTER.value))))
OF_ROWS = gl.constexpr(gl.SliceLayout(1, OF_LINES.value))
OF_HEADS = gl.constexpr(gl.SliceLayout(0, OF_LINES.value))


def prepare_fits_hopper(doutput: Tensor, saved: Saved) -> bool:
    """Return whether the kernel takes doutput (N, C) and these heads."""
    heads, head_dim = saved.y.shape[2:]
    fit = heads_fit(heads, saved.v.size(2), head_dim)
    return fit and stationary.fits(doutput, heads * head_dim)


def heads_fit(heads: int, kv_heads: int, head_dim: int) -> bool:
    """Return whether a strip is a group of these heads."""
    return heads == GROUP * kv_heads and head_dim == HEAD_DIM.value


def backward_prepare(saved: Saved, doutput: Tensor, weight: Tensor, gradients: Gradients) -> None:
    """Launch ``backward_prepare_kernel``, which writes ``gradients``.

    Args:
        saved: the forward pass's operands and results.
        doutput: (N, C) bf16, as ``prepare_fits_hopper`` says.
        weight: (C, H D) bf16.
        gradients: as for ``kernels.attention.backward_prepare``, dout always a tensor.
    """
    v, (dgate, dout, delta, dv) = saved.v, gradients
    backward_prepare_kernel[grid(doutput.size(0), weight.size(1), doutput.device)](
        streamed(doutput),
        weight.contiguous(),
        Inputs(None, saved.y, v, saved.gate, saved.v_projection, v.stride(1)),
        problem_argument(saved),
        Outputs(dgate, dout, delta, dv, dv.stride(1)),
        doutput.size(0),
        delta.size(2),
        WIDTH=doutput.size(1),
        STAGES=STAGES,
    )


@gluon.jit(do_not_specialize=["rows", "stats_stride"])
def backward_prepare_kernel(
    doutput_NC,
    weight,
    inputs,
    problem,
    outputs,
    rows,
    stats_stride,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Run one block: two warpgroups multiply and finish half of its tiles each, one warp loads."""
    HIDDEN: gl.constexpr = problem.G * STRIP
    ring = open_ring(doutput_NC, STAGES)
    kept = gl.allocate_shared_memory(gl.bfloat16, [WIDTH // DEPTH, DEPTH, STRIP], KEPT_BY_COLUMN)
    sizes = (rows, stats_stride)
    gl.warp_specialize(
        [
            (prepare_tiles, (0, ring, kept, weight, inputs, problem, outputs, sizes)),
            (prepare_tiles, (1, ring, kept, weight, inputs, problem, outputs, sizes)),
            (stream_rows, (doutput_NC, ring, rows, HIDDEN, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit
def prepare_tiles(CONSUMER: gl.constexpr, ring, kept, weight, inputs, problem, outputs, sizes):
    """Compute a consumer's tiles."""
    HIDDEN: gl.constexpr = problem.G * STRIP
    keep_strip(weight, kept, ring, CONSUMER, HIDDEN, 1, HIDDEN)
    strip, first, every = share(HIDDEN)
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(sizes[0], ROWS), 2 * every):
        row = tile * ROWS
        prefetch_inputs(row, strip, inputs, problem, sizes)
        upper, lower = product(ring, kept, order, CONSUMER)
        quarters = gl.split(by_heads(upper)) + gl.split(by_heads(lower))
        loaded = load(row, strip, inputs, problem, sizes)
        for quarter in gl.static_range(4):
            dy = quarters[quarter]
            loaded = prepare(dy, loaded, row, quarter, strip, inputs, problem, outputs, sizes)
        order += 2


@gluon.jit
def prefetch_inputs(row, strip, inputs, problem, sizes):
    """Prefetch to L2 what ``prepare`` reads of a tile, whose first row is ``row``."""
    G: gl.constexpr = problem.G
    rows, stats_stride = sizes
    prefetch(inputs.y + strip * STRIP, row, rows, G * STRIP, 2)
    if inputs.gate is not None:
        prefetch(inputs.gate, row, rows, 2 * G, 1)
    if problem.documents is not None:
        prefetch(problem.documents, row, rows, 1, 1)
    if inputs.v_projection is not None:
        prefetch(inputs.v + strip * HEAD_DIM, row, rows, inputs.v_stride, 1)
        window, position = row // problem.length, row % problem.length
        stats = inputs.v_projection + (window * G + strip) * stats_stride
        prefetch(stats, position, problem.length, 2, 1)


@gluon.jit
def by_heads(dy):
    """Return half a tile as two (row, head, thread, half, dim), of rows 8 apart, as the last."""
    parts = dy.reshape((4, 2, 8, 2, 2, 4, 8)).permute((0, 2, 3, 5, 4, 6, 1))
    return parts.reshape((32, 2, 4, 2, 8, 2))


@gluon.jit
def first_of(row, quarter):
    """Return the first row of a quarter of the tile whose first row is ``row``."""
    return row + quarter // 2 * HALF + quarter % 2 * 8


@gluon.jit
def rows_of(first_row, strip, problem, sizes):
    """Return a quarter's rows and positions (32, 1), which exist, and places of statistics."""
    row, member = first_row + distances(), gl.arange(0, 2, OF_HEADS)[None, :]
    position = row % problem.length
    stat = (row // problem.length * problem.G + strip) * sizes[1] + position * 2 + member
    return row, position, row < sizes[0], stat, row * (2 * problem.G) + strip * 2 + member


@gluon.jit
def load(first_row, strip, inputs, problem, sizes):
    """Return a quarter's y, v, gate and v_projection, and which rows see only themselves."""
    row, position, inside, stat, line = rows_of(first_row, strip, problem, sizes)
    start, logit, projection = 0, 0, 0
    if problem.documents is not None:
        start = gl.load(problem.documents + row, mask=inside, other=0)
    if inputs.gate is not None:
        logit = gl.load(inputs.gate + line, mask=inside, other=0.0)
    if inputs.v_projection is not None:
        projection = gl.load(inputs.v_projection + stat, mask=inside, other=0.0)
    alone = position == start
    needed = inside & alone if inputs.v_projection is None else inside
    y = gl.load(of_heads(inputs.y, first_row, strip, problem), mask=whole(inside), other=0.0)
    v = gl.load(
        of_group(inputs.v, first_row, strip, inputs.v_stride), mask=whole(needed), other=0.0
    )
    return y, v, logit, projection, alone


@gluon.jit
def prepare(dy, loaded, row, quarter, strip, inputs, problem, outputs, sizes):
    """Compute dgate, dout, delta and XSA's part of dv for a quarter of a tile.

    Returns the following quarter's ``load``, which begins before the stores, because no load passes
    a store.
    """
    y, v, logit, projection, alone = loaded
    dy, y, direction = gl.convert_layout(dy, QUARTER), y.to(gl.float32), v.to(gl.float32)
    if inputs.v_projection is not None:
        norm = gl.maximum(gl.sqrt(sums(direction * direction)), 1e-12)
        direction *= whole(1.0 / norm)
        taken = whole(sums(dy * direction))
        dv = gl.sum(taken * y, axis=1)
    if inputs.gate is not None:
        delta = sums(dy * y)
    if inputs.v_projection is not None:
        dy -= taken * direction
    if inputs.gate is not None:
        share = 1.0 / (1.0 + gl.exp(-logit.to(gl.float32)))
        dgate = (delta * (1.0 - share)).to(outputs.dgate.dtype.element_ty)
        dy *= whole(share)
    dout = rounded(dy)
    exact = dout.to(gl.float32)
    by_value = sums(exact * direction)
    if inputs.gate is None:
        delta = sums(exact * y)
    if inputs.v_projection is not None:
        dv += gl.sum(whole(projection) * exact, axis=1)
        dv = (gl.expand_dims(dv, 1) * whole(-1.0 / norm)).to(gl.bfloat16)
        if inputs.gate is None:
            delta += projection * by_value
        by_value *= norm
    delta = gl.where(alone, by_value, delta)

    if quarter < 3:
        loaded = load(first_of(row, quarter + 1), strip, inputs, problem, sizes)
    first_row = first_of(row, quarter)
    _, _, inside, stat, line = rows_of(first_row, strip, problem, sizes)
    gl.store(of_heads(outputs.dout, first_row, strip, problem), dout, mask=whole(inside))
    gl.store(outputs.delta + stat, delta, mask=inside)
    if inputs.gate is not None:
        gl.store(outputs.dgate + line, dgate, mask=inside)
    if inputs.v_projection is not None:
        places = of_group(outputs.dv, first_row, strip, outputs.dv_stride)
        gl.store(places, dv, mask=whole(inside))
    return loaded


@gluon.jit
def of_heads(x, first_row, strip, problem):
    """Return pointers to a quarter of a tile of x (N, G 128)."""
    WIDTH: gl.constexpr = problem.G * STRIP
    member = gl.arange(0, 2, OF_HEADS)[None, :]
    corner = x + (first_row.to(gl.int64) * WIDTH + strip * STRIP)
    return corner + (whole(distances() * WIDTH + member * HEAD_DIM) + dims())


@gluon.jit
def of_group(x, first_row, strip, stride):
    """Return pointers to a quarter's rows of one key head of x, whose rows are ``stride`` apart."""
    corner = x + (first_row.to(gl.int64) * stride + strip * HEAD_DIM)
    return corner + (whole(distances() * stride) + dims())


@gluon.jit
def distances():
    """Return the distances (32, 1) of a quarter's rows from its first: 8 of every 16."""
    index = gl.arange(0, 32, OF_ROWS)[:, None]
    return index // 8 * 16 + index % 8


@gluon.jit
def dims():
    """Return the dims of a thread's elements."""
    thread = gl.arange(0, 4)[None, None, :, None, None]
    half = gl.arange(0, 2)[None, None, None, :, None]
    dim = gl.arange(0, 8)[None, None, None, None, :]
    return gl.set_auto_layout(thread * 8 + half * 32 + dim, QUARTER)


@gluon.jit
def whole(x):
    """Return x (rows, heads) as (rows, heads, 1, 1, 1)."""
    return x[:, :, None, None, None]


@gluon.jit
def sums(x):
    """Return sums (rows, heads) over dims. A thread's are summed first, without a shuffle."""
    return gl.sum(gl.sum(gl.sum(x, axis=4), axis=3), axis=2)


@gluon.jit
def rounded(x):
    """Return x in bf16, two at once: Triton rounds one at a time if the fp32 is needed, too."""
    return gl.inline_asm_elementwise(
        "cvt.rn.bf16x2.f32 $0, $2, $1;",
        "=r,f,f",
        [x],
        dtype=gl.bfloat16,
        is_pure=True,
        pack=2,
    )
