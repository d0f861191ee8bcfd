"""Attention's backward pass, second part: gradients of queries and gain.

Seven products where an atomic sum of query gradients needs five, but no sum over blocks leaves its
block: same inputs, same bits, and no fp32 copy of the query gradients to clear, add to and convert
(0.6 GB, 140 us at the real size). Both halves keep their probabilities in registers, as an operand
of the next product; five products would send them through shared memory.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.forward import LN_2, Tiles, load_rows, tiles_for, visible_keys
from kernels.attention.rope import gain_limit, query_scale, turn, unscaled

QUERY_TILES = {64: Tiles(64, 64, 4, 2, 168), 128: Tiles(128, 64, 8, 2)}


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
    """Launch ``query_gradients_kernel``, which writes dq.

    Args:
        inner, delta: as ``output_gradients`` has them.
        query, rstd: as ``turned``.
        key to log_sum: as ``attend`` has them.
        dq: (B, T, H, D), tokens ``stride(1)`` apart.

    Returns:
        dgain (H,) fp32.
    """
    B, G, rows, D = query.shape
    T = key.size(2)
    tiles = tiles_for(QUERY_TILES, D)
    row_tiles = triton.cdiv(rows, tiles.rows)
    dgain = torch.empty((B, row_tiles, gain.numel()), dtype=torch.float32, device=v.device)
    query_gradients_kernel[(row_tiles, B * G)](
        inner,
        delta,
        query,
        rstd,
        key,
        v,
        gain,
        rope,
        documents,
        log_sum,
        dq,
        dgain,
        T,
        v.stride(1),
        dq.stride(1),
        rope.stride(0),
        log_sum.size(2),
        G=G,
        GROUP=rows // T,
        D=D,
        PAIRS=rope.size(-1),
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )
    return dgain.sum((0, 1))


@triton.jit
def query_gradients_kernel(
    inner_ptr,
    delta_ptr,
    query_ptr,
    rstd_ptr,
    key_ptr,
    v_ptr,
    gain_ptr,
    rope_ptr,
    documents_ptr,
    log_sum_ptr,
    dq_ptr,
    dgain_ptr,
    length,
    v_stride,
    dq_stride,
    rope_stride,
    stats_stride,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """dq and dgain.

    Tiles and order as in the forward kernel. At 98,304 tokens, T = 2048, 8/4 heads of 64: reads dO,
    query, key, v (302 MB), writes dq (101 MB): 94 us of traffic under 309 GFLOP (510 us at 606
    TFLOP/s) and 805 M exponentials (228 us).
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head = tl.program_id(1) // G, tl.program_id(1) % G
    first_token = batch.to(tl.int64) * length
    rows = length * GROUP
    row = tile * ROWS + tl.arange(0, ROWS)
    position, member = row // GROUP, row % GROUP
    valid = row < rows
    first_row = tl.program_id(1).to(tl.int64) * rows
    first_stat = tl.program_id(1).to(tl.int64) * stats_stride
    model_row = (first_token + position) * (G * GROUP) + head * GROUP + member
    v_ptr += first_token * v_stride + head * D

    gradient = load_rows(inner_ptr, model_row, D, (first_token + length) * (G * GROUP), True, D)
    delta = tl.load(delta_ptr + first_stat + row, mask=valid, other=0.0)
    query = load_rows(query_ptr + first_row * D, row, D, rows, True, D)
    log_sum = tl.load(log_sum_ptr + first_stat + row, mask=valid, other=0.0)
    key_ptr += tl.program_id(1).to(tl.int64) * length * D
    start, begin, end, whole_begin, whole = visible_keys(
        documents_ptr, first_token, position, valid, tile, length, GROUP, ROWS, KEYS
    )
    acc = tl.zeros((ROWS, D), tl.float32)
    for first in range(begin, end - whole, KEYS):
        first += tl.where(first < whole_begin, 0, whole)
        acc = take_keys_backward(
            query, gradient, acc, log_sum, delta, key_ptr, v_ptr, v_stride, first, position,
            start, length, True, D, KEYS,
        )  # fmt: skip
    for first in range(whole_begin, whole_begin + whole, KEYS):
        acc = take_keys_backward(
            query, gradient, acc, log_sum, delta, key_ptr, v_ptr, v_stride, first, position,
            start, length, False, D, KEYS,
        )  # fmt: skip

    gain = tl.load(gain_ptr + head * GROUP + member)
    scale = query_scale(gain, D)
    turned = unscaled(load_rows(query_ptr + first_row * D, row, D, rows, True, D), scale)
    along = tl.sum(acc * turned, 1)
    for each in tl.static_range(GROUP):
        counts = (member == each) & (tl.abs(gain) < gain_limit(D))
        partial = tl.sum(tl.where(counts, along, 0.0), 0) * D**-0.5
        to = (batch * tl.num_programs(0) + tile) * (G * GROUP) + head * GROUP + each
        tl.store(dgain_ptr + to, partial)
    rstd = tl.load(rstd_ptr + first_stat + row, mask=valid, other=0.0)
    dq = (acc - turned * (along / D)[:, None]) * (rstd * scale * LN_2)[:, None]
    dq = turn(dq, position, valid, rope_ptr, rope_stride, -1.0, D, PAIRS)
    token = (first_token + position) * dq_stride + (head * GROUP + member) * D
    model = token[:, None] + tl.arange(0, D)[None, :]
    tl.store(dq_ptr + model, dq.to(dq_ptr.dtype.element_ty), mask=valid[:, None])


@triton.jit
def take_keys_backward(
    query,
    gradient,
    acc,
    log_sum,
    delta,
    key_ptr,
    v_ptr,
    v_stride,
    first,
    position,
    start,
    length,
    MASKED: tl.constexpr,
    D: tl.constexpr,
    KEYS: tl.constexpr,
):
    """What one tile of keys and values adds to the gradient of a tile of queries."""
    seen = first + tl.arange(0, KEYS)
    key = load_rows(key_ptr, seen, D, length, MASKED, D)
    value = load_rows(v_ptr, seen, v_stride, length, MASKED, D)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    dweights = tl.dot(gradient, tl.trans(value), input_precision="ieee")
    weights = tl.exp2(scores - log_sum[:, None])
    if MASKED:
        visible = (seen[None, :] <= position[:, None]) & (seen[None, :] >= start[:, None])
        weights = tl.where(visible, weights, 0.0)
    dscores = weights * (dweights - delta[:, None])
    return tl.dot(dscores.to(key.dtype), key, acc, input_precision="ieee")
