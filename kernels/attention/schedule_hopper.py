"""What the Hopper kernels share: rings of tiles, order of work, rotary in a product's registers."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.rope import gain_limit

WARPGROUP_ROWS = 64  # of a product's result, by one warpgroup of 4 warps
HEAD_DIM = 64
CONSUMERS = 3  # warpgroups that multiply, a block
# A thread's: 3 x 4 warps of 160 and 4 of 24, of 65,536 in all. The entry has 128 a thread.
CONSUMER_REGISTERS, LOADER_REGISTERS = 160, 24
# 128 bytes a row, swizzled as wgmma and TMA want it.
TILE_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
WINDOW_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
VECTOR_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)


@dataclass(frozen=True)
class Ring:
    """Rows of a tile that travels, and how many tiles may be under way."""

    rows: int
    stages: int


def fits(q: Tensor, kv_heads: int, pairs: int) -> bool:
    """Whether these kernels compute attention of q (B, T, H, D): Hopper, 16 bits, head dim 64, a
    group's heads filling 64 rows evenly, rotary halves that lie in one thread's registers."""
    group = q.size(2) // kv_heads
    return (
        q.is_cuda
        and is_hopper(q.device)
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.size(3) == HEAD_DIM
        and group in (1, 2, 4, 8, 16)
        and pairs % 8 == 0
    )


@cache
def is_hopper(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) == (9, 0)


@cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def rows_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Tiles of ``rows`` x D of a contiguous (..., D)."""
    return TensorDescriptor.from_tensor(x.view(-1, x.size(-1)), [rows, x.size(-1)], TILE_LAYOUT)


def heads_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Tiles of ``rows`` x D of x (B, T, G, D) whose tokens lie evenly: column head * D."""
    B, T, G, D = x.shape
    return TensorDescriptor(x, [B * T, G * D], [x.stride(1), 1], [rows, D], TILE_LAYOUT)


def window_descriptor(x: Tensor, rows: int, group: int) -> TensorDescriptor:
    """Tiles of ``rows`` / group positions of a group's heads, of a contiguous x (B, T, H, D).

    What lies beyond the window is read as zero.
    """
    block = [1, rows // group, group, x.size(-1)]
    return TensorDescriptor.from_tensor(x, block, WINDOW_LAYOUT)


def vector_descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Pieces of ``rows`` numbers of x (B, G, rows) fp32."""
    return TensorDescriptor.from_tensor(x.flatten(0, 1), [1, rows], VECTOR_LAYOUT)


@gluon.constexpr_function
def product_layout(columns):
    """Where one warpgroup's registers hold a product of 64 rows."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.constexpr_function
def left_layout(columns):
    """Where they hold the left operand of 16 bits of such a product."""
    return gl.DotOperandLayout(0, product_layout(columns), 2)


@gluon.jit
def work_item(turn):
    """Which piece of work a program takes in its ``turn``-th turn.

    Work of a head grows or falls along its tiles; programs take turns forwards and backwards, so
    that who had a long one gets a short one.
    """
    programs = gl.num_programs(0)
    slot = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
    return turn * programs + slot


@gluon.jit
def make_barriers(count: gl.constexpr, arrivals: gl.constexpr):
    """``count`` mbarriers in shared memory, each of which completes after ``arrivals``."""
    barriers = gl.allocate_shared_memory(gl.int64, [count, 1], mbarrier.MBarrierLayout())
    for each in gl.static_range(count):
        mbarrier.init(barriers.index(each), count=arrivals)
    return barriers


@gluon.jit
def await_stage(barriers, index, STAGES: gl.constexpr):
    """Wait until the ``index``-th tile of a ring is there."""
    mbarrier.wait(barriers.index(index % STAGES), (index // STAGES) & 1)


@gluon.jit
def await_room(barriers, index, STAGES: gl.constexpr):
    """Wait until everybody has let go of the tile that the ``index``-th will replace."""
    mbarrier.wait(barriers.index(index % STAGES), ((index // STAGES) & 1) ^ 1)


@gluon.jit
def release(barriers, index, STAGES: gl.constexpr):
    """Let go of the ``index``-th tile of a ring."""
    mbarrier.arrive(barriers.index(index % STAGES), count=1)


@gluon.jit
def release_read(barriers, index, STAGES: gl.constexpr):
    """Let go of the ``index``-th tile of a ring, which was read into registers just before.

    Such reads are still under way when the next instruction begins, and a copy by TMA does not wait
    for them: without the fence it has replaced a tile under its reader, in one launch of a hundred.
    """
    fence_async_shared()
    release(barriers, index, STAGES)


@gluon.jit
def pass_by(full, empty, index, count, STAGES: gl.constexpr):
    """Let ``count`` tiles go that others of the block need. Returns the next index."""
    for _ in range(count):
        await_stage(full, index, STAGES)
        release(empty, index, STAGES)
        index += 1
    return index


@gluon.jit
def load_vector(piece, ROWS: gl.constexpr, layout: gl.constexpr):
    """(ROWS,) fp32 of a (1, ROWS) piece in shared memory."""
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    return piece._reinterpret(gl.float32, [ROWS], flat).load(layout)


@gluon.jit
def unit(v):
    """v / |v| of rows (rows, D), fp32, and 1 / |v|, as torch.nn.functional.normalize has it."""
    v = v.to(gl.float32)
    inverse = 1.0 / gl.maximum(gl.sqrt(gl.sum(v * v, 1)), 1e-12)
    return v * gl.expand_dims(inverse, 1), inverse


@gluon.jit
def query_scale(gain, D: gl.constexpr):
    """As ``kernels.attention.rope.query_scale``."""
    gain = gl.minimum(gl.maximum(gain, -gain_limit(D)), gain_limit(D))
    gain = gl.where(gain < 0, gl.minimum(gain, -1e-30), gl.maximum(gain, 1e-30))
    return gain * (1.4426950408889634 / D**0.5)


@gluon.jit
def angles(x, first_row, length, rope_ptr, rope_stride, GROUP: gl.constexpr, PAIRS: gl.constexpr):
    """cos and sin with which ``turn`` turns x (64, 64), the rows from ``first_row`` on, of which
    each position has GROUP: to be loaded before a barrier or a store, which they would wait for."""
    first, _ = halves(turned_part(x, PAIRS))
    layout: gl.constexpr = first.type.layout
    row = first_row + gl.arange(0, first.shape[0], gl.SliceLayout(1, layout))
    pair = gl.arange(0, PAIRS, gl.SliceLayout(0, layout))
    position = gl.minimum(row // GROUP, length - 1)
    place = gl.expand_dims(position * PAIRS, 1) + gl.expand_dims(pair, 0)
    return gl.load(rope_ptr + place), gl.load(rope_ptr + rope_stride + place)


@gluon.jit
def turned_part(x, PAIRS: gl.constexpr):
    """The first 2 * PAIRS columns of x (64, 64)."""
    if PAIRS < 32:
        x, _ = halves(x)
    if PAIRS < 16:
        x, _ = halves(x)
    return x


@gluon.jit
def turn(x, cos, sin, PAIRS: gl.constexpr):
    """Turn the first 2 * PAIRS dims of x (64, 64) fp32 by ``angles``.

    PAIRS is a multiple of 8, so both of a pair are in one thread's registers in a product's layout,
    and cutting the row into pieces moves nothing.
    """
    layout: gl.constexpr = x.type.layout
    if PAIRS == 8:
        left, right = halves(x)
        first, second = halves(left)
        x = whole(whole(turn_pairs(first, cos, sin), second), right)
    elif PAIRS == 16:
        left, right = halves(x)
        x = whole(turn_pairs(left, cos, sin), right)
    elif PAIRS == 32:
        x = turn_pairs(x, cos, sin)
    return gl.convert_layout(x, layout)


@gluon.jit
def halves(x):
    """The left and the right half of the columns of x (rows, columns)."""
    return gl.split(x.reshape([x.shape[0], 2, x.shape[1] // 2]).permute((0, 2, 1)))


@gluon.jit
def whole(left, right):
    """What ``halves`` cut."""
    right = gl.convert_layout(right, left.type.layout)
    return gl.join(left, right).permute((0, 2, 1)).reshape([left.shape[0], 2 * left.shape[1]])


@gluon.jit
def turn_pairs(x, cos, sin):
    """Turn all columns of x, halves being the pairs."""
    first, second = halves(x)
    return whole(first * cos + second * sin, second * cos - first * sin)
