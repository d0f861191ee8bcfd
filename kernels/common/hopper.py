"""Layouts, TMA descriptors, barriers and rings of tiles of the Gluon kernels for Hopper.

A ring is a NamedTuple of tiles in shared memory, (stages, rows, columns) each, with two rows of
barriers: ``full`` completes when a stage's tiles have arrived, ``empty`` when all consumers have
released them. The ``index``-th tile of a ring is in stage ``index % stages``.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

WARPGROUP_ROWS = 64  # of a product's result, by one warpgroup of 4 warps
CONSUMERS = gl.constexpr(3)  # warpgroups of a block that multiply
# Registers of a thread of the second and third consumer and of the loader: 3 x 4 warps of 160 and 4
# of 24 are 65,536 in all. The first consumer has the number that the kernel was compiled for.
REGISTERS = gl.constexpr((160, 160, 24))
# 128 bytes a row, swizzled as wgmma and TMA read it.
TILE_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
WINDOW_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
VECTOR_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)


def rows_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Return tiles of ``rows`` x D of a contiguous (..., D)."""
    return TensorDescriptor.from_tensor(x.view(-1, x.size(-1)), [rows, x.size(-1)], TILE_LAYOUT)


def heads_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Return tiles of ``rows`` x D of x (B, T, G, D) with evenly spaced tokens: column head * D."""
    B, T, G, D = x.shape
    return TensorDescriptor(x, [B * T, G * D], [x.stride(1), 1], [rows, D], TILE_LAYOUT)


def window_descriptor(x: Tensor, rows: int, group: int) -> TensorDescriptor:
    """Return tiles of ``rows`` / group positions of a group's heads, of a contiguous (B, T, H, D).

    Positions beyond the window are read as zero.
    """
    block = [1, rows // group, group, x.size(-1)]
    return TensorDescriptor.from_tensor(x, block, WINDOW_LAYOUT)


def vector_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Return pieces of ``rows`` numbers of x (B, G, rows) fp32."""
    return TensorDescriptor.from_tensor(x.flatten(0, 1), [1, rows], VECTOR_LAYOUT)


@gluon.constexpr_function
def product_layout(columns):
    """Return the layout of a product of 64 rows in one warpgroup's registers."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.constexpr_function
def left_layout(columns):
    """Return the layout of the 16-bit left operand of such a product."""
    return gl.DotOperandLayout(0, product_layout(columns), 2)


@gluon.constexpr_function
def store_layout():
    """Return the layout of 64 rows that are stored in pieces of 16 bytes."""
    return gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])


@gluon.jit
def make_barriers(count: gl.constexpr, arrivals: gl.constexpr):
    """Return ``count`` mbarriers in shared memory, each of which completes after ``arrivals``."""
    barriers = gl.allocate_shared_memory(gl.int64, [count, 1], mbarrier.MBarrierLayout())
    for each in gl.static_range(count):
        mbarrier.init(barriers.index(each), count=arrivals)
    return barriers


@gluon.jit
def wait_full(ring, index):
    """Wait until the ``index``-th tile of a ring has arrived."""
    STAGES: gl.constexpr = ring.full.shape[0]
    mbarrier.wait(ring.full.index(index % STAGES), (index // STAGES) & 1)


@gluon.jit
def wait_empty(ring, index):
    """Wait until all consumers have released the tile that the ``index``-th will replace."""
    STAGES: gl.constexpr = ring.empty.shape[0]
    mbarrier.wait(ring.empty.index(index % STAGES), ((index // STAGES) & 1) ^ 1)


@gluon.jit
def release(ring, index):
    """Release the ``index``-th tile of a ring."""
    STAGES: gl.constexpr = ring.empty.shape[0]
    mbarrier.arrive(ring.empty.index(index % STAGES), count=1)


@gluon.jit
def release_read(ring, index):
    """Release the ``index``-th tile of a ring, which was read into registers just before.

    Such reads may not have completed when the next instruction begins, and a copy by TMA does not
    wait for them. Without the fence it could overwrite a tile that is still being read.
    """
    fence_async_shared()
    release(ring, index)


@gluon.jit
def skip(ring, index, count):
    """Release ``count`` tiles that only other consumers need. Return the next index."""
    for _ in range(count):
        wait_full(ring, index)
        release(ring, index)
        index += 1
    return index


@gluon.jit
def load_vector(piece, ROWS: gl.constexpr, layout: gl.constexpr):
    """Return (ROWS,) fp32 of a (1, ROWS) piece in shared memory."""
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    return piece._reinterpret(gl.float32, [ROWS], flat).load(layout)
