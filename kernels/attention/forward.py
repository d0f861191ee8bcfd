"""Attention's forward pass: launcher and kernel."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

LN_2 = tl.constexpr(0.6931471805599453)
TINY_NORM = tl.constexpr(1e-12)


@dataclass(frozen=True)
class Tiles:
    """Of a kernel that has rows (positions x heads of a group) on one side and keys on the other.

    ``registers`` a thread bounds what the assembler may take, so that more blocks share an SM.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


# By head dim: the entry of the smallest that holds it.
FORWARD_TILES = {64: Tiles(128, 64, 8, 3, 128), 128: Tiles(128, 64, 8, 3)}


def tiles_for(table: dict[int, Tiles], head_dim: int) -> Tiles:
    """The entry of the smallest head dim in ``table`` that is no less than ``head_dim``."""
    return table[min(size for size in table if size >= head_dim)]


def attend(
    query: Tensor,
    key: Tensor,
    v: Tensor,
    gate: Tensor | None,
    documents: Tensor | None,
    y: Tensor,
    log_sum: Tensor,
    along: Tensor | None,
) -> None:
    """Launch ``forward_kernel``, which writes y, log_sum and along.

    Args:
        query: (B, G, rows, D) turned and scaled; a row is (position, head of the group).
        key: (B, G, T, D) turned.
        v: (B, T, G, D).
        gate: (B, T, H) logits or None.
        documents: (2, B, T) int32 or None.
        y: (B, T, H, D).
        log_sum: (B, G, padded rows) fp32, log2 of the softmax's denominator.
        along: like log_sum, y . v/|v| where XSA takes it out, or None.
    """
    B, G, rows, D = query.shape
    T = key.size(2)
    tiles = tiles_for(FORWARD_TILES, D)
    forward_kernel[(triton.cdiv(rows, tiles.rows), B * G)](
        query,
        key,
        v,
        gate,
        documents,
        log_sum,
        along,
        y,
        T,
        v.stride(1),
        log_sum.size(2),
        G=G,
        GROUP=rows // T,
        D=D,
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )


@triton.jit
def forward_kernel(
    query_ptr,
    key_ptr,
    v_ptr,
    gate_ptr,
    documents_ptr,
    log_sum_ptr,
    along_ptr,
    y_ptr,
    length,
    v_stride,
    stats_stride,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """y = sigmoid(gate) * exclude_self(softmax(query key^T) v), query and key turned already.

    A row is one position of one query head; a tile's rows are ROWS / GROUP positions of all heads
    of a group, so these share the loads of keys and values and the diagonal wastes half a tile
    less. Long tiles first. Scores are exponents of 2 within +-100 (``query_scale``), so there is no
    maximum to take off. Shapes as in ``attend``.

    At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, key, v (201 MB), writes y (101 MB) and
    3 MB of sums: 72 us of traffic under 206 GFLOP (340 us at 606 TFLOP/s) and 805 M exponentials
    (228 us at 16 a clock an SM); a public kernel takes 520 us in all.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head = tl.program_id(1) // G, tl.program_id(1) % G
    first_token = batch.to(tl.int64) * length
    rows = length * GROUP
    row = tile * ROWS + tl.arange(0, ROWS)
    position, member = row // GROUP, row % GROUP
    valid = row < rows
    dim = tl.arange(0, D)
    query_ptr += tl.program_id(1).to(tl.int64) * rows * D
    first_stat = tl.program_id(1).to(tl.int64) * stats_stride
    query = load_rows(query_ptr, row, D, rows, True, D)

    key_ptr += tl.program_id(1).to(tl.int64) * length * D
    v_ptr += first_token * v_stride + head * D
    start, begin, end, whole_begin, whole = visible_keys(
        documents_ptr, first_token, position, valid, tile, length, GROUP, ROWS, KEYS
    )
    acc = tl.zeros((ROWS, D), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(begin, end - whole, KEYS):
        first += tl.where(first < whole_begin, 0, whole)
        acc, total = take_keys(
            query, acc, total, key_ptr, v_ptr, v_stride, first, position, start, length,
            True, D, KEYS,
        )  # fmt: skip
    for first in range(whole_begin, whole_begin + whole, KEYS):
        acc, total = take_keys(
            query, acc, total, key_ptr, v_ptr, v_stride, first, position, start, length,
            False, D, KEYS,
        )  # fmt: skip

    y = acc / total[:, None]
    tl.store(log_sum_ptr + first_stat + row, tl.log2(total), mask=valid)
    if along_ptr is not None:
        own = tl.load(
            v_ptr + position[:, None] * v_stride + dim[None, :], mask=valid[:, None], other=0.0
        )
        direction, _ = unit(own)
        along = tl.sum(y * direction, 1)
        y -= along[:, None] * direction
        tl.store(along_ptr + first_stat + row, along, mask=valid)
    y_row = (first_token + position) * (G * GROUP) + head * GROUP + member
    if gate_ptr is not None:
        logit = tl.load(gate_ptr + y_row, mask=valid, other=0.0)
        y *= tl.sigmoid(logit.to(tl.float32))[:, None]
    tl.store(
        y_ptr + y_row[:, None] * D + dim[None, :],
        y.to(y_ptr.dtype.element_ty),
        mask=valid[:, None],
    )


@triton.jit
def unit(v):
    """v / |v| in fp32, and 1 / |v|, as torch.nn.functional.normalize has it."""
    v = v.to(tl.float32)
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(v * v, 1)), TINY_NORM)
    return v * inverse[:, None], inverse


@triton.jit
def visible_keys(
    documents_ptr,
    first_token,
    position,
    valid,
    tile,
    length,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Where each row's document starts, and the keys that a tile of rows visits, in tiles of KEYS:
    from begin to end, of which all rows see all of the ``whole`` ones from whole_begin."""
    first_position = tile * ROWS // GROUP
    last_position = (tl.minimum((tile + 1) * ROWS, length * GROUP) - 1) // GROUP
    whole_end = (first_position + 1) // KEYS * KEYS
    start = tl.zeros_like(position)
    begin = 0
    whole_begin = 0
    if documents_ptr is not None:
        starts_ptr = documents_ptr + first_token
        start = tl.load(starts_ptr + position, mask=valid, other=0)
        begin = tl.load(starts_ptr + first_position) // KEYS * KEYS
        whole_begin = tl.cdiv(tl.load(starts_ptr + last_position), KEYS) * KEYS
    whole = tl.maximum(whole_end - whole_begin, 0)
    return start, begin, last_position + 1, whole_begin, whole


@triton.jit
def take_keys(
    query,
    acc,
    total,
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
    """Add one tile of values, weighted by 2 to the power of their scores."""
    seen = first + tl.arange(0, KEYS)
    key = load_rows(key_ptr, seen, D, length, MASKED, D)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if MASKED:
        visible = (seen[None, :] <= position[:, None]) & (seen[None, :] >= start[:, None])
        scores = tl.where(visible, scores, -float("inf"))
    weights = tl.exp2(scores)
    total += tl.sum(weights, 1)
    value = load_rows(v_ptr, seen, v_stride, length, MASKED, D)
    acc = tl.dot(weights.to(value.dtype), value, acc, input_precision="ieee")
    return acc, total


@triton.jit
def load_rows(ptr, row, stride, rows, MASKED: tl.constexpr, D: tl.constexpr):
    """Rows of D; zeros beyond the last where MASKED."""
    ptrs = ptr + row[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(ptrs, mask=(row < rows)[:, None], other=0.0) if MASKED else tl.load(ptrs)
