"""Products of many rows with few weights on Hopper: the weights stay in shared memory.

    x (N, C) @ weight (C, M), bf16 or e4m3, sums in fp32; C at most 512

A block holds a strip of 128 columns of the weight, at full depth, in shared memory. Only x is
loaded repeatedly, 128 rows at a time. So each byte from L2 makes 128 FLOP. Tiles of 128 x 256 that
load both operands make 85, and at the MLP's size read 1.8 GB from L2 instead of 1.2.

Two consumer warpgroups take tiles alternately, so that one's epilogue overlaps with the other's
products (CUTLASS's "pingpong" schedule). A producer warp loads x through a ring of buffers.

The strip's columns are permuted in shared memory. A Hopper product gives a thread 2 neighbouring
columns of every 8, and a row to four threads. Column 32 i + 8 t + 2 j + b of the strip is at index
32 i + 8 j + 2 t + b. Thread t then has runs of 8 columns, for 16-byte loads and stores.

In e4m3 a step is 128 deep instead of 64, so that tiles have as many bytes, and a product takes as
many instructions a step. Both operands must lie along the sum in memory.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false
import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.common.device import is_hopper, multiprocessors
from kernels.operand import FP8

WIDEST = 512  # a strip of 128 KB: with 6 buffers of 16 KB, a block's shared memory
ROWS, HALF, STRIP, DEPTH = (gl.constexpr(size) for size in (128, 64, 128, 64))
DEPTH_FP8 = gl.constexpr(128)
STAGES = 6
REGISTERS = gl.constexpr((240, 24))  # of a consumer's thread and of the producer's: 504 in all

# Shared memory and loads of (DEPTH, STRIP), by the dimension whose elements are neighbours.
KEPT_BY_COLUMN = gl.constexpr(gl.NVMMASharedLayout(128, 16))
KEPT_BY_DEPTH = gl.constexpr(gl.NVMMASharedLayout(128, 16, transposed=True))
ROWS_IN_FP8 = gl.constexpr(gl.NVMMASharedLayout(128, 8))
KEPT_IN_FP8 = gl.constexpr(gl.NVMMASharedLayout(128, 8, transposed=True))
LOADED_BY_COLUMN = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0]))
LOADED_BY_DEPTH = gl.constexpr(gl.BlockedLayout([8, 1], [8, 4], [1, 4], [0, 1]))
LOADED_IN_FP8 = gl.constexpr(gl.BlockedLayout([16, 1], [8, 4], [1, 4], [0, 1]))
# A tile's sums: 128 registers a thread.
SUMS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
SUMS_OF_FP8 = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32]))
# Half of them, the same registers, as (row, block of 32 columns, thread's run in it, column of 8).
RUNS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 4], [8, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        [[16, 0, 0, 0], [32, 0, 0, 0]],
        [],
        [64, 4, 4, 8],
    )
)


def fits(x: Tensor, hidden: int) -> bool:
    """Return whether these kernels can multiply x (N, C) with a weight (C, M), M = hidden."""
    if not is_hopper(x.device) or x.dtype not in (torch.bfloat16, FP8):
        return False
    return sizes_fit(x.size(1), hidden, fp8=x.dtype == FP8)


def sizes_fit(width: int, hidden: int, fp8: bool = False) -> bool:
    """Return whether there is a kernel for x (N, width) and a weight (width, hidden)."""
    depth = DEPTH_FP8.value if fp8 else DEPTH.value
    return width <= WIDEST and width % depth == 0 and hidden % STRIP.value == 0


def streamed(x: Tensor) -> TensorDescriptor:
    """Return the descriptor by which ``stream_rows`` loads x (N, C)."""
    depth, layout = DEPTH.value, KEPT_BY_COLUMN.value
    if x.dtype == FP8:
        depth, layout = DEPTH_FP8.value, ROWS_IN_FP8.value
    return TensorDescriptor.from_tensor(x.contiguous(), [ROWS.value, depth], layout)


def grid(rows: int, hidden: int, device: torch.device) -> tuple[int]:
    """Return the grid: equally many blocks a strip, at most one block a multiprocessor.

    For M 1536 on 132 multiprocessors, 11 blocks a strip. Neighbouring blocks have the same rows of
    different strips at about the same time, so L2 reads the rows from memory once.
    """
    strips = hidden // STRIP.value
    shares = min(max(1, multiprocessors(device) // strips), -(-rows // ROWS.value))
    return (strips * shares,)


@gluon.jit
def share(HIDDEN: gl.constexpr):
    """Return this block's strip, its first tile of rows, and the step to its next tile."""
    strips = HIDDEN // STRIP
    block = gl.program_id(0)
    return block % strips, block // strips, gl.num_programs(0) // strips


@gluon.jit
def open_ring(x_NC, STAGES: gl.constexpr):
    """Return buffers of x, and barriers: full, empty, the consumers' order, the strip's arrival."""
    DEPTH: gl.constexpr = x_NC.block_type.shape[1]
    buffers = gl.allocate_shared_memory(x_NC.dtype, [STAGES, ROWS, DEPTH], x_NC.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    strip_kept = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    for consumer in gl.static_range(2):
        mbarrier.init(turns.index(consumer), count=1)
    mbarrier.init(strip_kept, count=2)
    return buffers, full, empty, turns, strip_kept


@gluon.jit
def stream_rows(x_NC, ring, rows, HIDDEN: gl.constexpr, WIDTH: gl.constexpr):
    """Load this block's rows, as many columns as a buffer has: the producer's part."""
    buffers, full, empty, _, _ = ring
    STAGES: gl.constexpr = buffers.shape[0]
    DEPTH: gl.constexpr = buffers.shape[2]
    _, first, every = share(HIDDEN)
    count = 0
    for tile in range(first, gl.cdiv(rows, ROWS), every):
        for depth in range(0, WIDTH, DEPTH):
            stage = count % STAGES
            mbarrier.wait(empty.index(stage), (count // STAGES & 1) ^ 1)
            mbarrier.expect(full.index(stage), x_NC.block_type.nbytes)
            source = [tile * ROWS, depth]
            tma.async_copy_global_to_shared(x_NC, source, full.index(stage), buffers.index(stage))
            count += 1


@gluon.constexpr_function
def loaded(dtype, depth_stride):
    """Return the layout in which a strip is loaded, 16 bytes a thread."""
    if dtype == gl.float8e4nv:
        return LOADED_IN_FP8.value
    return (LOADED_BY_DEPTH if depth_stride == 1 else LOADED_BY_COLUMN).value


@gluon.constexpr_function
def sums(dtype):
    """Return the layout of a tile's sums of products in ``dtype``."""
    return (SUMS_OF_FP8 if dtype == gl.float8e4nv else SUMS).value


@gluon.jit
def keep_strip(
    weight,
    kept,
    ring,
    CONSUMER: gl.constexpr,
    DEPTH_STRIDE: gl.constexpr,
    COLUMN_STRIDE: gl.constexpr,
    HIDDEN: gl.constexpr,
):
    """Load every other block of the strip, columns permuted, and wait for the other consumer."""
    STEPS: gl.constexpr = kept.shape[0]
    DEPTH: gl.constexpr = kept.shape[1]
    layout: gl.constexpr = loaded(kept.dtype, DEPTH_STRIDE)
    strip, _, _ = share(HIDDEN)
    depth = gl.arange(0, DEPTH, gl.SliceLayout(1, layout))[:, None]
    column = strip * STRIP + gl.arange(0, STRIP, gl.SliceLayout(0, layout))[None, :]
    places = depth * DEPTH_STRIDE + column * COLUMN_STRIDE
    for step in gl.static_range(CONSUMER, STEPS, 2):
        block = gl.load(weight + places + step * (DEPTH * DEPTH_STRIDE))
        pairs = block.reshape((DEPTH, 4, 4, 4, 2)).permute((0, 1, 3, 2, 4))
        kept.index(step).store(pairs.reshape((DEPTH, STRIP)))
    fence_async_shared()
    mbarrier.arrive(ring[4])
    mbarrier.wait(ring[4], 0)


@gluon.jit
def product(ring, kept, order, CONSUMER: gl.constexpr):
    """Return the product of the block's tile ``order``, as two halves (64, 4, 4, 8) of its rows.

    The other consumer begins when all products of this tile are issued. Without this alternation, a
    consumer could mistake a buffer's earlier phase for the one it waits for.
    """
    buffers, full, empty, turns, _ = ring
    STEPS: gl.constexpr = kept.shape[0]
    STAGES: gl.constexpr = buffers.shape[0]
    total = gl.zeros((ROWS, STRIP), gl.float32, sums(kept.dtype))
    before = 0
    mbarrier.wait(turns.index(CONSUMER), (order // 2 & 1) ^ (1 - CONSUMER))
    for step in range(STEPS):
        count = order * STEPS + step
        stage = count % STAGES
        x, weight = buffers.index(stage), kept.index(step)
        mbarrier.wait(full.index(stage), count // STAGES & 1)
        total = warpgroup_mma(x, weight, total, use_acc=step > 0, is_async=True)
        total = warpgroup_mma_wait(1, (total,))
        mbarrier.arrive(empty.index(before), pred=step > 0)
        before = stage
    mbarrier.arrive(turns.index(1 - CONSUMER))
    total = warpgroup_mma_wait(0, (total,))
    mbarrier.arrive(empty.index(before))
    runs = total.reshape((2, HALF, 4, 4, 4, 2)).permute((1, 2, 4, 3, 5, 0))
    upper, lower = gl.split(runs.reshape((HALF, 4, 4, 8, 2)))
    return gl.convert_layout(upper, RUNS), gl.convert_layout(lower, RUNS)


@gluon.jit
def elements(first_row, strip, rows, HIDDEN: gl.constexpr):
    """Return offsets in (N, M) of a half tile's elements, and which of its rows exist."""
    row = gl.arange(0, HALF)[:, None, None, None]
    block = gl.arange(0, 4)[None, :, None, None]
    run = gl.arange(0, 4)[None, None, :, None]
    column = gl.arange(0, 8)[None, None, None, :]
    corner = first_row.to(gl.int64) * HIDDEN + strip * STRIP
    places = row.to(gl.int64) * HIDDEN + (block * 32 + run * 8 + column)
    inside = gl.set_auto_layout(row, RUNS) < rows - first_row
    return corner + gl.set_auto_layout(places, RUNS), inside


@gluon.jit
def prefetch(x, first_row, rows, stride, LINES: gl.constexpr):
    """Prefetch a tile to L2, LINES lines of 128 bytes a row, while its product runs.

    x (N, stride) in 16 bits begins at the tile's first column. A load that early would spill: a
    tile of 128 columns takes 64 registers, besides the 128 of the sums.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, LINES], [32, 1], [4, 1], [1, 0])
    row = gl.minimum(first_row + gl.arange(0, ROWS, gl.SliceLayout(1, layout)), rows - 1)
    line = gl.arange(0, LINES, gl.SliceLayout(0, layout))
    places = row.to(gl.int64)[:, None] * stride + line[None, :] * 64
    gl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
        "=r,l",
        [(x + places).to(gl.int64)],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )
