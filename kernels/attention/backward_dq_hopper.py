"""Attention's backward pass on Hopper, second part: gradients of queries and gain."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
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

from kernels.attention.forward_hopper import keys_of_tile
from kernels.attention.rope import gain_limit
from kernels.attention.schedule_hopper import (
    CONSUMER_REGISTERS,
    CONSUMERS,
    LOADER_REGISTERS,
    WARPGROUP_ROWS,
    Ring,
    angles,
    await_room,
    await_stage,
    heads_descriptor,
    left_layout,
    make_barriers,
    multiprocessors,
    pass_by,
    product_layout,
    query_scale,
    release,
    release_read,
    rows_descriptor,
    turn,
    window_descriptor,
    work_item,
)

KEYS = Ring(rows=64, stages=4)
# Keys of one score product: half a tile's, whose other products run beside these exponentials.
PART = 32
LN_2 = gl.constexpr(0.6931471805599453)


def query_gradients(
    inner: Tensor,
    delta: Tensor,
    query: Tensor,
    rstd: Tensor,
    key: Tensor,
    v: Tensor,
    gain: Tensor,
    rope: Tensor,
    documents: Tensor | None,
    log_sum: Tensor,
    dq: Tensor,
) -> Tensor:
    """Launch ``query_gradients_kernel``: what ``kernels.attention.backward_dq`` takes, writes
    and returns."""
    B, G, rows, D = query.shape
    T = key.size(2)
    group = rows // T
    tiles = -(-rows // (CONSUMERS * WARPGROUP_ROWS))
    total = tiles * B * G
    parts = (B, G, tiles * CONSUMERS, group)
    dgain = torch.empty(parts, dtype=torch.float32, device=query.device)
    query_gradients_kernel[(min(total, multiprocessors(query.device)),)](
        window_descriptor(inner, WARPGROUP_ROWS, group),
        rows_descriptor(query, WARPGROUP_ROWS),
        rows_descriptor(key, KEYS.rows),
        heads_descriptor(v, KEYS.rows),
        delta,
        rstd,
        gain,
        rope,
        documents,
        log_sum,
        dq,
        dgain,
        B,
        T,
        dq.stride(1),
        rope.stride(0),
        tiles,
        log_sum.size(2),
        G=G,
        GROUP=group,
        D=D,
        PAIRS=rope.size(-1),
        KEYS=KEYS.rows,
        STAGES=KEYS.stages,
        PART=PART,
        CONSUMERS=CONSUMERS,
        CONSUMER_REGISTERS=CONSUMER_REGISTERS,
        LOADER_REGISTERS=LOADER_REGISTERS,
        num_warps=4,
    )
    return dgain.sum((0, 2)).flatten()


@gluon.jit
def query_gradients_kernel(
    inner_desc,
    query_desc,
    key_desc,
    v_desc,
    delta_ptr,
    rstd_ptr,
    gain_ptr,
    rope_ptr,
    documents_ptr,
    log_sum_ptr,
    dq_ptr,
    dgain_ptr,
    windows,
    length,
    dq_stride,
    rope_stride,
    tiles,
    stats_stride,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    PART: gl.constexpr,
    CONSUMERS: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr,
    LOADER_REGISTERS: gl.constexpr,
):
    """dq and dgain of 192 rows, formulas as ``kernels.attention.backward_dq`` has them.

    A piece's queries and output gradients arrive while the piece before is computed; with a ring of
    4 tiles of 64 keys and values 115 KB.

    At 98,304 tokens, T = 2048, 8/4 heads of 64: reads dO, query, key, v (302 MB), writes dq (101
    MB): 94 us of traffic under 309 GFLOP (330 us at 940 TFLOP/s) and 805 M exponentials (228 us).
    """
    dtype: gl.constexpr = query_desc.dtype
    queries = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    inners = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, D], query_desc.layout)
    keys = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], key_desc.layout)
    values = gl.allocate_shared_memory(dtype, [STAGES, KEYS, D], v_desc.layout)
    own_full, own_empty = make_barriers(1, 1), make_barriers(1, CONSUMERS)
    full, empty = make_barriers(STAGES, 1), make_barriers(STAGES, CONSUMERS)
    fence_async_shared()
    total = windows * G * tiles
    gl.warp_specialize(
        [
            (
                differentiate_rows,
                (
                    0, queries, inners, keys, values, own_full, own_empty, full, empty,
                    delta_ptr, rstd_ptr, gain_ptr, rope_ptr, documents_ptr, log_sum_ptr, dq_ptr,
                    dgain_ptr, length, dq_stride, rope_stride, tiles, stats_stride, total, G, GROUP,
                    D, PAIRS, KEYS, STAGES, PART, CONSUMERS,
                ),
            ),
            (
                differentiate_rows,
                (
                    1, queries, inners, keys, values, own_full, own_empty, full, empty,
                    delta_ptr, rstd_ptr, gain_ptr, rope_ptr, documents_ptr, log_sum_ptr, dq_ptr,
                    dgain_ptr, length, dq_stride, rope_stride, tiles, stats_stride, total, G, GROUP,
                    D, PAIRS, KEYS, STAGES, PART, CONSUMERS,
                ),
            ),
            (
                differentiate_rows,
                (
                    2, queries, inners, keys, values, own_full, own_empty, full, empty,
                    delta_ptr, rstd_ptr, gain_ptr, rope_ptr, documents_ptr, log_sum_ptr, dq_ptr,
                    dgain_ptr, length, dq_stride, rope_stride, tiles, stats_stride, total, G, GROUP,
                    D, PAIRS, KEYS, STAGES, PART, CONSUMERS,
                ),
            ),
            (
                load_tiles,
                (
                    inner_desc, query_desc, key_desc, v_desc, queries, inners, keys, values,
                    own_full, own_empty, full, empty, documents_ptr, length, tiles, total, G, GROUP,
                    D, KEYS, STAGES, CONSUMERS,
                ),
            ),
        ],
        [4, 4, 1],
        [CONSUMER_REGISTERS, CONSUMER_REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def load_tiles(
    inner_desc,
    query_desc,
    key_desc,
    v_desc,
    queries,
    inners,
    keys,
    values,
    own_full,
    own_empty,
    full,
    empty,
    documents_ptr,
    length,
    tiles,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warp: rows of each piece of work as soon as there is room, then its keys and values."""
    dtype: gl.constexpr = query_desc.dtype
    block: gl.constexpr = inner_desc.block_type.shape
    index = 0
    for turn_index in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn_index)
        if item < total:
            head_index, tile = item // tiles, tiles - 1 - item % tiles
            batch, head = head_index // G, head_index % G
            first_row = tile * CONSUMERS * 64
            ready = own_full.index(0)
            await_room(own_empty, turn_index, 1)
            mbarrier.expect(ready, 2 * CONSUMERS * query_desc.block_type.nbytes)
            for each in gl.static_range(CONSUMERS):
                row = first_row + each * 64
                place = [batch, row // GROUP, head * GROUP, 0]
                inner = inners.index(each)._reinterpret(dtype, block, inner_desc.layout)
                tma.async_copy_global_to_shared(inner_desc, place, ready, inner)
                row += head_index * length * GROUP
                tma.async_copy_global_to_shared(query_desc, [row, 0], ready, queries.index(each))
            begin, end = keys_of_tile(
                documents_ptr, batch, length, first_row, CONSUMERS * 64, GROUP, KEYS
            )
            for first in range(begin, end, KEYS):
                stage = index % STAGES
                await_room(empty, index, STAGES)
                mbarrier.expect(full.index(stage), 2 * key_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    key_desc,
                    [head_index * length + first, 0],
                    full.index(stage),
                    keys.index(stage),
                )
                tma.async_copy_global_to_shared(
                    v_desc,
                    [batch * length + first, head * D],
                    full.index(stage),
                    values.index(stage),
                )
                index += 1


@gluon.jit
def differentiate_rows(
    which: gl.constexpr,
    queries,
    inners,
    keys,
    values,
    own_full,
    own_empty,
    full,
    empty,
    delta_ptr,
    rstd_ptr,
    gain_ptr,
    rope_ptr,
    documents_ptr,
    log_sum_ptr,
    dq_ptr,
    dgain_ptr,
    length,
    dq_stride,
    rope_stride,
    tiles,
    stats_stride,
    total,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    PART: gl.constexpr,
    CONSUMERS: gl.constexpr,
):
    """One warpgroup: rows ``which`` * 64 and following of each piece of work."""
    layout: gl.constexpr = product_layout(D)
    scores_rows: gl.constexpr = gl.SliceLayout(1, product_layout(PART))
    index = 0
    for turn_index in range(gl.cdiv(total, gl.num_programs(0))):
        item = work_item(turn_index)
        if item < total:
            head_index, tile = item // tiles, tiles - 1 - item % tiles
            batch, head = head_index // G, head_index % G
            tile_row = tile * CONSUMERS * 64
            own_row = tile_row + which * 64
            begin, end = keys_of_tile(
                documents_ptr, batch, length, tile_row, CONSUMERS * 64, GROUP, KEYS
            )
            own_begin, own_end = keys_of_tile(
                documents_ptr, batch, length, own_row, 64, GROUP, KEYS
            )
            row = own_row + gl.arange(0, 64, scores_rows)
            position = row // GROUP
            valid = row < length * GROUP
            start = gl.zeros_like(position)
            whole_begin = own_begin
            if documents_ptr is not None:
                starts_ptr = documents_ptr + batch * length
                start = gl.load(starts_ptr + position, mask=valid, other=0)
                last = gl.minimum((own_row + 63) // GROUP, length - 1)
                whole_begin = gl.cdiv(gl.load(starts_ptr + last), KEYS) * KEYS
            whole_begin = gl.minimum(whole_begin, own_end)
            whole_end = gl.minimum((own_row // GROUP + 1) // KEYS * KEYS, own_end)
            whole_end = gl.maximum(whole_begin, whole_end)
            stats = head_index * stats_stride + row
            log_sum = gl.load(log_sum_ptr + stats, mask=valid, other=0.0)
            delta = gl.load(delta_ptr + stats, mask=valid, other=0.0)

            await_stage(own_full, turn_index, 1)
            query = queries.index(which).load(left_layout(PART))
            inner = inners.index(which).load(left_layout(PART))
            release_read(own_empty, turn_index, 1)
            dq = gl.zeros([64, D], gl.float32, layout)
            skipped = (own_begin - begin) // KEYS
            index = pass_by(full, empty, index, skipped, STAGES)
            if documents_ptr is not None:
                for first in range(own_begin, whole_begin, KEYS):
                    dq = take_keys(
                        query, inner, dq, log_sum, delta, keys, values, full, empty,
                        index, first, position, start, True, KEYS, STAGES, PART,
                    )  # fmt: skip
                    index += 1
            for first in range(whole_begin, whole_end, KEYS):
                dq = take_keys(
                    query, inner, dq, log_sum, delta, keys, values, full, empty,
                    index, first, position, start, False, KEYS, STAGES, PART,
                )  # fmt: skip
                index += 1
            for first in range(whole_end, own_end, KEYS):
                dq = take_keys(
                    query, inner, dq, log_sum, delta, keys, values, full, empty,
                    index, first, position, start, True, KEYS, STAGES, PART,
                )  # fmt: skip
                index += 1
            left = gl.cdiv(end, KEYS) - gl.cdiv(own_end, KEYS)
            index = pass_by(full, empty, index, left, STAGES)

            dgain_row = (head_index * tiles * CONSUMERS + own_row // 64) * GROUP
            finish_rows(
                dq, gl.convert_layout(query, layout), head_index, own_row, gain_ptr + head * GROUP,
                rope_ptr, rstd_ptr, dq_ptr, dgain_ptr + dgain_row, length, dq_stride, rope_stride,
                stats_stride, G, GROUP, D, PAIRS,
            )  # fmt: skip


@gluon.jit
def take_keys(
    query,
    inner,
    dq,
    log_sum,
    delta,
    keys,
    values,
    full,
    empty,
    index,
    first,
    position,
    start,
    MASKED: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    PART: gl.constexpr,
):
    """What one tile of keys and values adds to the gradient of 64 queries.

    Beside a part's exponentials are in flight its own dO v^T, the sum of the part before, and the
    two products of the part after. Nothing is, from one tile to the next, or the assembler would
    serialise every product (its note C7514); four parts do not fit in the registers (C7512).
    """
    layout: gl.constexpr = product_layout(PART)
    left: gl.constexpr = left_layout(dq.shape[1])
    parts: gl.constexpr = KEYS // PART
    await_stage(full, index, STAGES)
    scoring, weighing = start_part(query, inner, keys, values, index, 0, KEYS, STAGES, PART)
    summing = dq
    for part in gl.static_range(parts):
        if part + 1 < parts:
            next_scoring, next_weighing = start_part(
                query, inner, keys, values, index, part + 1, KEYS, STAGES, PART
            )
        scores = warpgroup_mma_wait(younger(part, parts) + 1, deps=[scoring])
        weights = gl.exp2(scores - gl.expand_dims(log_sum, 1))
        if MASKED:
            seen = first + part * PART + gl.arange(0, PART, gl.SliceLayout(0, layout))
            seen = gl.expand_dims(seen, 0)
            visible = (seen <= gl.expand_dims(position, 1)) & (seen >= gl.expand_dims(start, 1))
            weights = gl.where(visible, weights, 0.0)
        dweights = warpgroup_mma_wait(younger(part, parts), deps=[weighing])
        dscores = (weights * (dweights - gl.expand_dims(delta, 1))).to(query.dtype)
        key = part_of(keys, index, part, KEYS, STAGES, PART)
        summing = warpgroup_mma(gl.convert_layout(dscores, left), key, summing, is_async=True)
        if part + 1 < parts:
            scoring, weighing = next_scoring, next_weighing
    dq = warpgroup_mma_wait(0, deps=[summing])
    # With no product in flight, this warpgroup's last read of the stage lies behind it.
    release(empty, index, STAGES)
    return dq


@gluon.jit
def start_part(
    query,
    inner,
    keys,
    values,
    index,
    part: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    PART: gl.constexpr,
):
    """Start query key^T and dO v^T with the ``part``-th PART rows of a tile."""
    zeros = gl.zeros([64, PART], gl.float32, product_layout(PART))
    key = part_of(keys, index, part, KEYS, STAGES, PART).permute((1, 0))
    value = part_of(values, index, part, KEYS, STAGES, PART).permute((1, 0))
    scoring = warpgroup_mma(query, key, zeros, use_acc=False, is_async=True)
    weighing = warpgroup_mma(inner, value, zeros, use_acc=False, is_async=True)
    return scoring, weighing


@gluon.jit
def part_of(
    tiles,
    index,
    part: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    PART: gl.constexpr,
):
    """The ``part``-th PART rows of the ``index``-th tile of a ring."""
    parts: gl.constexpr = KEYS // PART
    # Rows lie one after another, and the swizzle repeats every 8 of them.
    pieces = tiles._reinterpret(tiles.dtype, [STAGES * parts, PART, tiles.shape[2]], tiles.layout)
    return pieces.index(index % STAGES * parts + part)


@gluon.constexpr_function
def younger(part, parts):
    """Products started after the ``part``-th dO v^T by when that is waited for: the sum of the part
    before, two of the part after."""
    return (part > 0) + 2 * (part + 1 < parts)


@gluon.jit
def finish_rows(
    dq,
    query,
    head_index,
    own_row,
    gain_ptr,
    rope_ptr,
    rstd_ptr,
    dq_ptr,
    dgain_ptr,
    length,
    dq_stride,
    rope_stride,
    stats_stride,
    G: gl.constexpr,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    PAIRS: gl.constexpr,
):
    """Gradient of 64 scaled queries (64, D) through gain, norm and rotary; gain's share."""
    layout: gl.constexpr = product_layout(D)
    row = own_row + gl.arange(0, 64, gl.SliceLayout(1, layout))
    member = row % GROUP
    valid = row < length * GROUP
    gain = gl.load(gain_ptr + member)
    scale = query_scale(gain, D)
    rstd = gl.load(rstd_ptr + head_index * stats_stride + row, mask=valid, other=0.0)
    cos, sin = angles(dq, own_row, length, rope_ptr, rope_stride, GROUP, PAIRS)
    # As ``kernels.attention.rope.unscaled``.
    turned = (query.to(gl.float32) / gl.expand_dims(scale, 1)).to(query.dtype).to(gl.float32)
    along = gl.where(valid, gl.sum(dq * turned, 1), 0.0)
    for each in gl.static_range(GROUP):
        counts = (member == each) & (gl.abs(gain) < gain_limit(D))
        gl.store(dgain_ptr + each, gl.sum(gl.where(counts, along, 0.0), 0) * D**-0.5)
    dq = (dq - turned * gl.expand_dims(along / D, 1)) * gl.expand_dims(rstd * scale * LN_2, 1)
    dq = turn(dq, cos, -sin, PAIRS)

    store: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    row = own_row + gl.arange(0, 64, gl.SliceLayout(1, store))
    dim = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, store)), 0)
    token = (head_index // G).to(gl.int64) * length + row // GROUP
    line = token * dq_stride + (head_index % G * GROUP + row % GROUP) * D
    dq = gl.convert_layout(dq.to(dq_ptr.dtype.element_ty), store)
    valid = gl.expand_dims(row < length * GROUP, 1)
    gl.store(dq_ptr + gl.expand_dims(line, 1) + dim, dq, mask=valid)
