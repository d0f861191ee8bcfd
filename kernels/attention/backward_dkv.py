"""Attention's backward pass, third part: gradients of keys and values."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.forward import LN_2, Tiles, load_rows, tiles_for
from kernels.attention.rope import turn

KEY_TILES = {64: Tiles(32, 64, 4, 3, 168), 128: Tiles(64, 64, 8, 2)}


def key_gradients(
    inner: Tensor,
    delta: Tensor,
    query: Tensor,
    key: Tensor,
    key_rstd: Tensor,
    v: Tensor,
    rope: Tensor,
    documents: Tensor | None,
    log_sum: Tensor,
    dk: Tensor,
    dv: Tensor,
    xsa: bool,
) -> None:
    """Launch ``key_gradients_kernel``, which writes dk and dv, (B, T, G, D) of one token stride;
    with ``xsa`` it adds to what ``output_gradients`` left in dv. The rest as ``query_gradients``
    takes it."""
    B, G, rows, D = query.shape
    T = key.size(2)
    tiles = tiles_for(KEY_TILES, D)
    key_gradients_kernel[(triton.cdiv(T, tiles.keys), B * G)](
        inner,
        delta,
        query,
        key,
        key_rstd,
        v,
        rope,
        documents,
        log_sum,
        dk,
        dv,
        T,
        v.stride(1),
        dk.stride(1),
        rope.stride(0),
        log_sum.size(2),
        key_rstd.size(2),
        G=G,
        GROUP=rows // T,
        D=D,
        PAIRS=rope.size(-1),
        XSA=xsa,
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )


@triton.jit
def key_gradients_kernel(
    inner_ptr,
    delta_ptr,
    query_ptr,
    key_ptr,
    rstd_ptr,
    v_ptr,
    rope_ptr,
    documents_ptr,
    log_sum_ptr,
    dk_ptr,
    dv_ptr,
    length,
    v_stride,
    dk_stride,
    rope_stride,
    stats_stride,
    rstd_stride,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    XSA: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """dk and dv of a tile of keys, summed over all rows that see it: a group's heads included.

    Scores are kept transposed, (KEYS, ROWS), so that probabilities and their gradients leave one
    product's registers as the next one's left operand. The longest tile, that of the first keys,
    comes first. At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, dO, key, v (302 MB; 50
    more with XSA), writes dk and dv (101 MB): 94-106 us of traffic under 412 GFLOP (680 us at 606
    TFLOP/s) and 805 M exponentials (228 us).
    """
    batch, head = tl.program_id(1) // G, tl.program_id(1) % G
    first_token = batch.to(tl.int64) * length
    rows = length * GROUP
    first_row = tl.program_id(1).to(tl.int64) * rows
    first_stat = tl.program_id(1).to(tl.int64) * stats_stride
    own = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    valid = own < length
    key_ptr += tl.program_id(1).to(tl.int64) * length * D
    v_ptr += first_token * v_stride + head * D
    query_ptr += first_row * D
    heads = first_token * (G * GROUP) + head * GROUP
    inner_ptr += heads * D
    key = load_rows(key_ptr, own, D, length, True, D)
    value = load_rows(v_ptr, own, v_stride, length, True, D)

    stop, begin, end, whole_begin, whole = seeing_rows(
        documents_ptr, first_token, own, valid, length, G, GROUP, ROWS, KEYS
    )
    dk = tl.zeros((KEYS, D), tl.float32)
    dv = tl.zeros((KEYS, D), tl.float32)
    for first in range(begin, end - whole, ROWS):
        first += tl.where(first < whole_begin, 0, whole)
        dk, dv = take_rows(
            key, value, dk, dv, query_ptr, inner_ptr, log_sum_ptr + first_stat,
            delta_ptr + first_stat, first, rows, own, stop, True, G, GROUP, D, ROWS,
        )  # fmt: skip
    for first in range(whole_begin, whole_begin + whole, ROWS):
        dk, dv = take_rows(
            key, value, dk, dv, query_ptr, inner_ptr, log_sum_ptr + first_stat,
            delta_ptr + first_stat, first, rows, own, stop, False, G, GROUP, D, ROWS,
        )  # fmt: skip

    own_token = (first_token + own) * dk_stride + head * D
    own_model = own_token[:, None] + tl.arange(0, D)[None, :]
    if XSA:
        dv += tl.load(dv_ptr + own_model, mask=valid[:, None], other=0.0).to(tl.float32)
    tl.store(dv_ptr + own_model, dv.to(dv_ptr.dtype.element_ty), mask=valid[:, None])
    key_row = tl.program_id(1).to(tl.int64) * rstd_stride + own
    turned = load_rows(key_ptr, own, D, length, True, D).to(tl.float32)
    rstd = tl.load(rstd_ptr + key_row, mask=valid, other=0.0)
    dk = (dk - turned * (tl.sum(dk * turned, 1) / D)[:, None]) * (rstd * LN_2)[:, None]
    dk = turn(dk, own, valid, rope_ptr, rope_stride, -1.0, D, PAIRS)
    tl.store(dk_ptr + own_model, dk.to(dk_ptr.dtype.element_ty), mask=valid[:, None])


@triton.jit
def seeing_rows(
    documents_ptr,
    first_token,
    own,
    valid,
    length,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Where each key's document stops, and the rows that see a tile of keys, in tiles of ROWS: from
    begin to end, of which all of the ``whole`` ones from whole_begin see all keys."""
    first_key = tl.program_id(0) * KEYS
    last_key = tl.minimum(first_key + KEYS, length) - 1
    stop = tl.zeros_like(own) + length
    first_stop = length
    all_stop = length
    if documents_ptr is not None:
        stops_ptr = documents_ptr + first_token + (tl.num_programs(1) // G) * length
        stop = tl.load(stops_ptr + own, mask=valid, other=0)
        first_stop = tl.load(stops_ptr + first_key)
        all_stop = tl.load(stops_ptr + last_key)
    begin = first_key * GROUP
    whole_begin = begin + tl.cdiv((last_key - first_key) * GROUP, ROWS) * ROWS
    whole = tl.maximum(first_stop * GROUP - whole_begin, 0) // ROWS * ROWS
    return stop, begin, all_stop * GROUP, whole_begin, whole


@triton.jit
def take_rows(
    key,
    value,
    dk,
    dv,
    query_ptr,
    inner_ptr,
    log_sum_ptr,
    delta_ptr,
    first,
    rows,
    own,
    stop,
    MASKED: tl.constexpr,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """What one tile of rows adds to the gradients of a tile of keys and values."""
    row = first + tl.arange(0, ROWS)
    query = load_rows(query_ptr, row, D, rows, MASKED, D)
    gradient = load_grouped(inner_ptr, row, rows, MASKED, G, GROUP, D)
    if MASKED:
        log_sum = tl.load(log_sum_ptr + row, mask=row < rows, other=0.0)
        delta = tl.load(delta_ptr + row, mask=row < rows, other=0.0)
    else:
        log_sum = tl.load(log_sum_ptr + row)
        delta = tl.load(delta_ptr + row)
    scores = tl.dot(key, tl.trans(query), input_precision="ieee")
    weights = tl.exp2(scores - log_sum[None, :])
    if MASKED:
        position = row // GROUP
        visible = (own[:, None] <= position[None, :]) & (position[None, :] < stop[:, None])
        weights = tl.where(visible, weights, 0.0)
    dv = tl.dot(weights.to(value.dtype), gradient, dv, input_precision="ieee")
    dweights = tl.dot(value, tl.trans(gradient), input_precision="ieee")
    dscores = weights * (dweights - delta[None, :])
    dk = tl.dot(dscores.to(query.dtype), query, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def load_grouped(
    ptr, row, rows, MASKED: tl.constexpr, G: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr
):
    """Rows (position, head of the group) of a (T, H, D) tensor, from the group's first head."""
    offset = (row // GROUP) * (G * GROUP * D) + (row % GROUP) * D
    ptrs = ptr + offset[:, None] + tl.arange(0, D)[None, :]
    return tl.load(ptrs, mask=(row < rows)[:, None], other=0.0) if MASKED else tl.load(ptrs)
