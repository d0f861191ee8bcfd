"""Attention's forward pass on Hopper.

    y = sigmoid(gate) * exclude_self(softmax(query key^T) v)      query and key rotated already

    query (B, G, T * GROUP, 64), scaled by log2(e) / sqrt(D) too; key (B, G, T, 64); v (B, T, G, 64)
    y (B, T, H, 64) in their 16-bit dtype; lse, v_projection (B, G, padded T * GROUP) fp32

Scores are bounded because queries and keys are normed (``kernels.attention.rope``). So there is no
running maximum and no rescaling of the sum, and the exponential of one tile overlaps with the
product of the next.

At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, key, v (201 MB), writes y (101 MB); 206
GFLOP and 805 M exponentials.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.attention.rope_hopper import unit
from kernels.attention.saved import Saved
from kernels.attention.schedule_hopper import (
    ITEM_ROWS,
    NONE,
    announce,
    end_items,
    make_item,
    next_item,
    schedule,
    take_item,
    unmasked_keys,
    visible_keys,
)
from kernels.common.hopper import (
    CONSUMERS,
    REGISTERS,
    WARPGROUP_ROWS,
    heads_descriptor,
    left_layout,
    make_barriers,
    product_layout,
    release,
    release_read,
    rows_descriptor,
    skip,
    store_layout,
    wait_empty,
    wait_full,
)
from kernels.common.launch import Launch

# Rows of an item, keys of a tile of the ring, its stages: 180 KB of shared memory. With 8 stages a
# warpgroup goes on to the next item while others finish (docs/log.md). Microseconds with norm,
# rotary and gain, 4 stages: H100, 98,304 tokens, 8/4 heads of 64, 69955f1 (variants-h100.md).
LAUNCH = Launch(rows=ITEM_ROWS, columns=64, stages=8)  # 497.1; with XSA 533.1
# 1 or 2 of 4 exponentials as a polynomial: 508.5, 549.9; with XSA 545.2, 590.0
# 3 or 5 stages of whole windows: no difference. A block for each item: 20 % slower.


class Inputs(NamedTuple):
    """TMA descriptors."""

    query: Any
    key: Any
    v: Any


class Queries(NamedTuple):
    """An item and its queries, 64 rows for each consumer: a ring of one stage."""

    item: Any
    query: Any
    full: Any
    empty: Any


class Keys(NamedTuple):
    """A ring of keys and values."""

    key: Any
    value: Any
    full: Any
    empty: Any


class Outputs(NamedTuple):
    """Results and operands of the epilogue; v_projection is None without XSA, gate without a gate.

    v_stride is the elements between tokens of v, stats_stride those between groups of lse and
    v_projection.
    """

    y: Any
    lse: Any
    v_projection: Any
    v: Any
    gate: Any
    v_stride: Any
    stats_stride: Any


def forward(saved: Saved) -> None:
    """Launch ``forward_kernel``, which writes y, lse and v_projection of ``saved``."""
    query, key, v, lse = saved.query, saved.key, saved.v, saved.lse
    problem, grid = schedule(query, key, saved.documents, query.size(2))
    results = saved.y, lse, saved.v_projection
    forward_kernel[grid](
        rows_descriptor(query, WARPGROUP_ROWS),
        rows_descriptor(key, LAUNCH.columns),
        heads_descriptor(v, LAUNCH.columns),
        problem,
        Outputs(*results, v, saved.gate, v.stride(1), lse.size(2)),
        STAGES=LAUNCH.stages,
        num_warps=LAUNCH.warps,
    )


@gluon.jit
def forward_kernel(query_desc, key_desc, v_desc, problem, outputs, STAGES: gl.constexpr):
    """Run one block: three warpgroups attend 64 rows each, one warp loads."""
    dtype: gl.constexpr = query_desc.dtype
    D: gl.constexpr = key_desc.block_type.shape[1]
    KEYS: gl.constexpr = key_desc.block_type.shape[0]
    query = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    key = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], key_desc.layout)
    value = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], v_desc.layout)
    queries = Queries(make_item(), query, make_barriers(1, 2), make_barriers(1, CONSUMERS))
    keys = Keys(key, value, make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS))
    fence_async_shared()
    inputs = Inputs(query_desc, key_desc, v_desc)
    gl.warp_specialize(
        [
            (attend_items, (0, problem, queries, keys, outputs)),
            (attend_items, (1, problem, queries, keys, outputs)),
            (attend_items, (2, problem, queries, keys, outputs)),
            (load_tiles, (problem, queries, keys, inputs)),
        ],
        [4, 4, 1],
        REGISTERS,
    )


@gluon.jit
def load_tiles(problem, queries, keys, inputs):
    """Load queries, keys and values: one warp."""
    load_items(problem, queries, keys, inputs, load_queries)


@gluon.jit
def load_items(problem, queries, keys, inputs, load_rows: gl.constexpr):
    """Load the rows of each item by ``load_rows``, then its keys and values."""
    KEYS: gl.constexpr = keys.key.shape[1]
    index = 0
    turn = 0
    head_index, tile = next_item(problem, turn, False)
    while head_index != NONE:
        first_row = tile * CONSUMERS * 64
        announce(queries, turn, head_index, tile)
        load_rows(problem, queries, inputs, head_index, first_row)
        batch = head_index // problem.G
        begin, end = visible_keys(problem, batch, first_row, CONSUMERS * 64, KEYS)
        for first in range(begin, end, KEYS):
            load_keys(problem, keys, inputs, index, head_index, first)
            index += 1
        turn += 1
        head_index, tile = next_item(problem, turn, False)
    end_items(queries, turn)


@gluon.jit
def load_queries(problem, queries, inputs, head_index, first_row):
    """Load the queries of an item that was announced."""
    full = queries.full.index(0)
    mbarrier.expect(full, CONSUMERS * inputs.query.block_type.nbytes)
    for each in gl.static_range(CONSUMERS):
        row = head_index * problem.length * problem.GROUP + first_row + each * 64
        tma.async_copy_global_to_shared(inputs.query, [row, 0], full, queries.query.index(each))


@gluon.jit
def load_keys(problem, keys, inputs, index, head_index, first):
    """Load the ``index``-th tile of keys and values, those from ``first`` on."""
    STAGES: gl.constexpr = keys.key.shape[0]
    D: gl.constexpr = keys.key.shape[2]
    batch, head = head_index // problem.G, head_index % problem.G
    stage = index % STAGES
    wait_empty(keys, index)
    full = keys.full.index(stage)
    mbarrier.expect(full, 2 * inputs.key.block_type.nbytes)
    key_row, value_row = head_index * problem.length + first, batch * problem.length + first
    tma.async_copy_global_to_shared(inputs.key, [key_row, 0], full, keys.key.index(stage))
    tma.async_copy_global_to_shared(inputs.v, [value_row, head * D], full, keys.value.index(stage))


@gluon.jit
def attend_items(which, problem, queries, keys, outputs):
    """Run one warpgroup: rows ``which`` * 64 and following of each item."""
    index = 0
    turn = 0
    head_index, tile = take_item(queries, turn)
    while head_index != NONE:
        index = attend_rows(which, problem, queries, keys, outputs, turn, head_index, tile, index)
        turn += 1
        head_index, tile = take_item(queries, turn)


@gluon.jit
def attend_rows(which, problem, queries, keys, outputs, turn, head_index, tile, index):
    """Attend 64 rows of the ``turn``-th item, tiles from the ``index``-th on; return the next."""
    KEYS: gl.constexpr = keys.key.shape[1]
    D: gl.constexpr = keys.key.shape[2]
    scores_layout: gl.constexpr = product_layout(KEYS)
    batch, item_row = head_index // problem.G, tile * CONSUMERS * 64
    first_row = item_row + which * 64
    item_begin, item_end = visible_keys(problem, batch, item_row, CONSUMERS * 64, KEYS)
    begin, end = visible_keys(problem, batch, first_row, 64, KEYS)
    row = first_row + gl.arange(0, 64, gl.SliceLayout(1, scores_layout))
    position = row // problem.GROUP
    start, full_begin, full_end = unmasked_keys(problem, batch, first_row, row, begin, KEYS)
    pairs = gl.maximum(gl.minimum(full_end, end) - full_begin, 0) // (2 * KEYS)
    rest = gl.minimum(full_begin, end) + pairs * 2 * KEYS

    query = queries.query.index(which).load(left_layout(KEYS))
    release_read(queries, turn)
    sums = gl.zeros([64, D], gl.float32, product_layout(D))
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, scores_layout))
    index = skip(keys, index, (begin - item_begin) // KEYS)
    if problem.documents is not None:
        for first in range(begin, gl.minimum(full_begin, end), KEYS):
            sums, total = take_masked(query, sums, total, keys, index, first, position, start)
            index += 1
    for _ in range(pairs):
        sums, total = take_pair(query, sums, total, keys, index)
        index += 2
    for first in range(rest, end, KEYS):
        sums, total = take_masked(query, sums, total, keys, index, first, position, start)
        index += 1
    index = skip(keys, index, gl.cdiv(item_end, KEYS) - gl.cdiv(end, KEYS))

    first_stat = head_index * outputs.stats_stride
    valid = row < problem.length * problem.GROUP
    gl.store(outputs.lse + first_stat + row, gl.log2(total), mask=valid)
    # One reciprocal a row. Two divisions an element took 114 of the epilogue's 771 instructions.
    inverse = gl.convert_layout(1.0 / total, gl.SliceLayout(1, product_layout(D)))
    finish_rows(sums * gl.expand_dims(inverse, 1), head_index, first_row, problem, outputs)
    return index


@gluon.jit
def take_pair(query, sums, total, keys, index):
    """Add two tiles that all rows see.

    The exponentials of one overlap with the products of the other. Nothing stays in flight from one
    iteration to the next, because the assembler would serialise every product (its note C7514).
    """
    even = start_scores(query, keys, index)
    odd = start_scores(query, keys, index + 1)
    scores = warpgroup_mma_wait(1, deps=[even])
    weighing, total = start_weighing(scores, sums, total, keys, index)
    scores = warpgroup_mma_wait(1, deps=[odd])
    weighing, total = start_weighing(scores, weighing, total, keys, index + 1)
    sums = warpgroup_mma_wait(0, deps=[weighing])
    release(keys, index)
    release(keys, index + 1)
    return sums, total


@gluon.jit
def take_masked(query, sums, total, keys, index, first, position, start):
    """Add one tile, keys from ``first`` on. Each row sees those from its start to itself."""
    KEYS: gl.constexpr = keys.key.shape[1]
    scoring = start_scores(query, keys, index)
    scores = warpgroup_mma_wait(0, deps=[scoring])
    seen = first + gl.arange(0, KEYS, gl.SliceLayout(0, product_layout(KEYS)))
    seen = gl.expand_dims(seen, 0)
    visible = (seen <= gl.expand_dims(position, 1)) & (seen >= gl.expand_dims(start, 1))
    scores = gl.where(visible, scores, -float("inf"))
    weighing, total = start_weighing(scores, sums, total, keys, index)
    sums = warpgroup_mma_wait(0, deps=[weighing])
    release(keys, index)
    return sums, total


@gluon.jit
def start_scores(query, keys, index):
    """Start query key^T with the ``index``-th tile of keys."""
    STAGES: gl.constexpr = keys.key.shape[0]
    KEYS: gl.constexpr = keys.key.shape[1]
    wait_full(keys, index)
    zeros = gl.zeros([64, KEYS], gl.float32, product_layout(KEYS))
    key = keys.key.index(index % STAGES).permute((1, 0))
    return warpgroup_mma(query, key, zeros, use_acc=False, is_async=True)


@gluon.jit
def start_weighing(scores, sums, total, keys, index):
    """Start adding the ``index``-th tile of values weighted by 2^scores."""
    STAGES: gl.constexpr = keys.value.shape[0]
    weights = gl.exp2(scores)
    total += gl.sum(weights, 1)
    value = keys.value.index(index % STAGES)
    weights = gl.convert_layout(weights.to(value.dtype), left_layout(value.shape[1]))
    return warpgroup_mma(weights, value, sums, is_async=True), total


@gluon.jit
def finish_rows(y, head_index, first_row, problem, outputs):
    """Apply XSA and gate to 64 rows of softmax's output, and store them in pieces of 16 bytes."""
    D: gl.constexpr = y.shape[1]
    layout: gl.constexpr = store_layout()
    row = first_row + gl.arange(0, 64, gl.SliceLayout(1, layout))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    valid = row < problem.length * problem.GROUP
    token = (head_index // problem.G).to(gl.int64) * problem.length + row // problem.GROUP
    head = head_index % problem.G
    line = (token * problem.G + head) * problem.GROUP + row % problem.GROUP
    # Loads begin before the barriers of the layout's change, because after them they would wait.
    if outputs.v_projection is not None:
        offset = gl.expand_dims(token * outputs.v_stride + head * D, 1) + dim
        v = gl.load(outputs.v + offset, mask=gl.expand_dims(valid, 1), other=0.0)
    if outputs.gate is not None:
        logit = gl.load(outputs.gate + line, mask=valid, other=0.0).to(gl.float32)
    y = gl.convert_layout(y, layout)
    if outputs.v_projection is not None:
        direction, _ = unit(v)
        projection = gl.sum(y * direction, 1)
        y -= gl.expand_dims(projection, 1) * direction
        first_stat = head_index * outputs.stats_stride
        gl.store(outputs.v_projection + first_stat + row, projection, mask=valid)
    if outputs.gate is not None:
        y *= gl.expand_dims(1.0 / (1.0 + gl.exp(-logit)), 1)
    offset = gl.expand_dims(line * D, 1) + dim
    dtype: gl.constexpr = outputs.y.dtype.element_ty
    gl.store(outputs.y + offset, y.to(dtype), mask=gl.expand_dims(valid, 1))
