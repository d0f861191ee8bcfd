"""Attention's forward pass: launcher and kernel."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.rotary import turn

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TINY_GAIN = tl.constexpr(1e-30)
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


@dataclass
class Attended:
    """What the forward pass leaves. Rows are (position, head in its group), T * H/G of them."""

    query: Tensor  # (B, G, rows, D) normed, turned, times gain * log2(e) / sqrt(D)
    rstd: Tensor  # (B, G, rows) fp32, 1/rms of the raw query
    log_sum: Tensor  # (B, G, rows) fp32, log2 of the softmax's denominator
    along: Tensor | None  # (B, G, rows) fp32, y . v/|v|, where XSA takes it out
    y: Tensor  # (B, T, H, D)


def attend(
    q: Tensor,
    key: Tensor,
    v: Tensor,
    gain: Tensor,
    rope: Tensor,
    gate: Tensor | None,
    documents: Tensor | None,
    *,
    eps: float,
    xsa: bool,
) -> Attended:
    """Launch ``forward_kernel`` on raw queries, turned keys (B, G, T, D) and values."""
    B, T, H, D = q.shape
    G = v.size(2)
    rows = (B, G, T * (H // G))
    query = torch.empty((*rows, D), dtype=q.dtype, device=q.device)
    rstd, log_sum = torch.empty((2, *rows), dtype=torch.float32, device=q.device).unbind()
    along = torch.empty(rows, dtype=torch.float32, device=q.device) if xsa else None
    y = torch.empty((B, T, H, D), dtype=q.dtype, device=q.device)
    tiles = tiles_for(FORWARD_TILES, D)
    forward_kernel[(triton.cdiv(rows[2], tiles.rows), B * G)](
        q,
        key,
        v,
        gain,
        gate,
        rope,
        documents,
        query,
        rstd,
        log_sum,
        along,
        y,
        T,
        q.stride(1),
        v.stride(1),
        rope.stride(0),
        eps,
        G=G,
        GROUP=H // G,
        D=D,
        PAIRS=rope.size(-1),
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        maxnreg=tiles.registers,
    )
    return Attended(query, rstd, log_sum, along, y)


@triton.jit
def forward_kernel(
    q_ptr,
    key_ptr,
    v_ptr,
    gain_ptr,
    gate_ptr,
    rope_ptr,
    documents_ptr,
    query_ptr,
    rstd_ptr,
    log_sum_ptr,
    along_ptr,
    y_ptr,
    length,
    q_stride,
    v_stride,
    rope_stride,
    eps,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """y = sigmoid(gate) * exclude_self(softmax(query key^T) v), query normed and turned on load.

    A row is one position of one query head; a tile's rows are ROWS / GROUP positions of all heads
    of a group, so these share the loads of keys and values and the diagonal wastes half a tile
    less. Long tiles first. Shapes as in ``Attended``; q and v as projected, documents (2, B, T).

    At 98,304 tokens, T = 2048, 8/4 heads of 64: reads q, key, v (201 MB), writes query and y (201
    MB) and 9 MB of row statistics: 96 us of traffic under 206 GFLOP (340 us at 606 TFLOP/s) and
    805 M exponentials (228 us at 16 a clock an SM); a public kernel takes 520 us in all.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head = tl.program_id(1) // G, tl.program_id(1) % G
    first_token = batch.to(tl.int64) * length
    rows = length * GROUP
    row = tile * ROWS + tl.arange(0, ROWS)
    position, member = row // GROUP, row % GROUP
    valid = row < rows
    dim = tl.arange(0, D)
    first_row = tl.program_id(1).to(tl.int64) * rows

    q_ptr += first_token * q_stride + head * GROUP * D
    q_row = position * q_stride + member * D
    x = tl.load(q_ptr + q_row[:, None] + dim[None, :], mask=valid[:, None], other=0.0)
    x = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    scale = query_scale(tl.load(gain_ptr + head * GROUP + member), D)
    turned = turn(x, position, valid, rope_ptr, rope_stride, 1.0, D, PAIRS)
    query = (turned * (rstd * scale)[:, None]).to(query_ptr.dtype.element_ty)
    tl.store(
        query_ptr + first_row * D + row[:, None] * D + dim[None, :], query, mask=valid[:, None]
    )
    tl.store(rstd_ptr + first_row + row, rstd, mask=valid)

    key_ptr += tl.program_id(1).to(tl.int64) * length * D
    v_ptr += first_token * v_stride + head * D
    start, begin, end, whole_begin, whole = visible_keys(
        documents_ptr, first_token, position, valid, tile, length, GROUP, ROWS, KEYS
    )
    acc = tl.zeros((ROWS, D), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    # Finite, so that a row whose document begins after a tile subtracts no infinities there.
    peak = tl.full((ROWS,), -1e30, tl.float32)
    for first in range(begin, end - whole, KEYS):
        first += tl.where(first < whole_begin, 0, whole)
        acc, total, peak = take_keys(
            query, acc, total, peak, key_ptr, v_ptr, v_stride, first, position, start, length,
            True, D, KEYS,
        )  # fmt: skip
    for first in range(whole_begin, whole_begin + whole, KEYS):
        acc, total, peak = take_keys(
            query, acc, total, peak, key_ptr, v_ptr, v_stride, first, position, start, length,
            False, D, KEYS,
        )  # fmt: skip

    y = acc / total[:, None]
    tl.store(log_sum_ptr + first_row + row, peak + tl.log2(total), mask=valid)
    if along_ptr is not None:
        own = tl.load(
            v_ptr + position[:, None] * v_stride + dim[None, :], mask=valid[:, None], other=0.0
        )
        direction, _ = unit(own)
        along = tl.sum(y * direction, 1)
        y -= along[:, None] * direction
        tl.store(along_ptr + first_row + row, along, mask=valid)
    if gate_ptr is not None:
        logit = tl.load(
            gate_ptr + (first_token + position) * (G * GROUP) + head * GROUP + member,
            mask=valid,
            other=0.0,
        )
        y *= tl.sigmoid(logit.to(tl.float32))[:, None]
    y_row = (first_token + position) * (G * GROUP) + head * GROUP + member
    tl.store(
        y_ptr + y_row[:, None] * D + dim[None, :],
        y.to(y_ptr.dtype.element_ty),
        mask=valid[:, None],
    )


@triton.jit
def query_scale(gain, D: tl.constexpr):
    """gain * log2(e) / sqrt(D), kept off zero so that the normed query can be had back from the
    scaled one; 1e-30 leaves scores at zero all the same."""
    bounded = tl.where(gain < 0, tl.minimum(gain, -TINY_GAIN), tl.maximum(gain, TINY_GAIN))
    return bounded * (LOG2_E / D**0.5)


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
    peak,
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
    """One tile of keys and values into the running softmax (Milakov and Gimelshein 2018,
    arXiv:1805.02867; Dao 2023, arXiv:2307.08691)."""
    seen = first + tl.arange(0, KEYS)
    key = load_rows(key_ptr, seen, D, length, MASKED, D)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if MASKED:
        visible = (seen[None, :] <= position[:, None]) & (seen[None, :] >= start[:, None])
        scores = tl.where(visible, scores, -float("inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp2(scores - new_peak[:, None])
    shrink = tl.exp2(peak - new_peak)
    total = total * shrink + tl.sum(weights, 1)
    value = load_rows(v_ptr, seen, v_stride, length, MASKED, D)
    acc = tl.dot(weights.to(value.dtype), value, acc * shrink[:, None], input_precision="ieee")
    return acc, total, new_peak


@triton.jit
def load_rows(ptr, row, stride, rows, MASKED: tl.constexpr, D: tl.constexpr):
    """Rows of D; zeros beyond the last where MASKED."""
    ptrs = ptr + row[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(ptrs, mask=(row < rows)[:, None], other=0.0) if MASKED else tl.load(ptrs)
