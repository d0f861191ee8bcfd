"""Attention's forward pass in Triton.

    y = sigmoid(gate) * exclude_self(softmax(query key^T) v)      query and key rotated already

    query (B, G, T * GROUP, D), scaled by log2(e) / sqrt(D) too; key (B, G, T, D); v (B, T, G, D)
    y (B, T, H, D) in their dtype; lse, v_projection (B, G, padded T * GROUP) fp32

At 98,304 tokens, T = 2048, 8/4 heads of 64: reads query, key, v (201 MB), writes y (101 MB); 206
GFLOP and 805 M exponentials.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import triton
import triton.language as tl

from kernels.attention import Kept
from kernels.attention.saved import Saved
from kernels.attention.visible import (
    head_keys,
    kept_keys,
    kept_places,
    keys_argument,
    launch_for,
    load_rows,
    problem_argument,
    ring_argument,
    unit,
    visible_keys,
)
from kernels.common.launch import Launch

# By head dim: the entry of the smallest that holds it.
LAUNCH = {
    64: Launch(rows=128, columns=64, warps=8, stages=3, registers=128),
    128: Launch(rows=128, columns=64, warps=8, stages=3),
}


# Chunks of documents have few rows.
KEPT_LAUNCH = {
    64: Launch(rows=64, columns=64, warps=4, stages=2),
    128: Launch(rows=64, columns=32, warps=8, stages=2),
}


class Outputs(NamedTuple):
    """Results, and elements between groups of lse and v_projection, which is None without XSA."""

    y: Any
    lse: Any
    v_projection: Any
    stats_stride: Any


class Rows(NamedTuple):
    """Queries (ROWS, D), each one's position and the first position that it sees."""

    query: Any
    position: Any
    start: Any


def forward(saved: Saved, kept: Kept | None = None) -> None:
    """Launch ``forward_kernel``, which writes y, lse and v_projection of ``saved``."""
    (B, G, rows, D), lse = saved.query.shape, saved.lse
    launch = launch_for(KEPT_LAUNCH if kept else LAUNCH, D)
    forward_kernel[(triton.cdiv(rows, launch.rows), B * G)](
        saved.query,
        keys_argument(saved.key, saved.v),
        saved.gate,
        problem_argument(saved),
        Outputs(saved.y, lse, saved.v_projection, lse.size(2)),
        ring_argument(kept),
        D=D,
        ROWS=launch.rows,
        KEYS=launch.columns,
        **launch.options,
    )


@triton.jit
def forward_kernel(
    query_ptr,
    keys,
    gate,
    problem,
    outputs,
    ring,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Attend ROWS rows of one window and group: ROWS / GROUP positions of all heads of the group.

    The heads need the same keys and values, which are loaded once, and the diagonal wastes half a
    tile less. Long tiles come first. Scores are exponents of 2 within +-100 (``query_scale``), so
    no maximum is subtracted.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    first_token = (tl.program_id(1) // problem.G).to(tl.int64) * problem.length
    rows = problem.length * problem.GROUP
    row = tile * ROWS + tl.arange(0, ROWS)
    position, valid = row // problem.GROUP, row < rows
    query_ptr += tl.program_id(1).to(tl.int64) * rows * D
    query = load_rows(query_ptr, row, D, rows, True, D)

    keys = head_keys(keys, problem, D)
    start, begin, end, whole_begin, whole = visible_keys(
        problem, first_token, position, valid, tile, ROWS, KEYS
    )
    own = Rows(query, position, start)
    acc = tl.zeros((ROWS, D), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(begin, end - whole, KEYS):
        first += tl.where(first < whole_begin, 0, whole)
        acc, total = take_keys(own, acc, total, keys, first, problem.length, True, KEYS)
    for first in range(whole_begin, whole_begin + whole, KEYS):
        acc, total = take_keys(own, acc, total, keys, first, problem.length, False, KEYS)
    if ring is not None:
        place, kept = kept_places(ring, problem, first_token, tile, ROWS)
        for first in range(-kept, 0, KEYS):
            _, value, scores = kept_keys(ring, place, first, query, start, problem, KEYS)
            weights = tl.exp2(scores)
            total += tl.sum(weights, 1)
            acc = tl.dot(weights.to(value.dtype), value, acc, input_precision="ieee")

    first_stat = tl.program_id(1).to(tl.int64) * outputs.stats_stride
    tl.store(outputs.lse + first_stat + row, tl.log2(total), mask=valid)
    finish_rows(acc / total[:, None], row, keys, gate, problem, outputs)


@triton.jit
def take_keys(rows, acc, total, keys, first, length, MASKED: tl.constexpr, KEYS: tl.constexpr):
    """Add one tile of values, weighted by 2 to the power of their scores."""
    D: tl.constexpr = rows.query.shape[1]
    seen = first + tl.arange(0, KEYS)
    key = load_rows(keys.key, seen, D, length, MASKED, D)
    scores = tl.dot(rows.query, tl.trans(key), input_precision="ieee")
    if MASKED:
        visible = seen[None, :] <= rows.position[:, None]
        visible &= seen[None, :] >= rows.start[:, None]
        scores = tl.where(visible, scores, -float("inf"))
    weights = tl.exp2(scores)
    total += tl.sum(weights, 1)
    value = load_rows(keys.v, seen, keys.v_stride, length, MASKED, D)
    acc = tl.dot(weights.to(value.dtype), value, acc, input_precision="ieee")
    return acc, total


@triton.jit
def finish_rows(y, row, keys, gate, problem, outputs):
    """Apply XSA and gate to rows of softmax's output (ROWS, D), and store them."""
    D: tl.constexpr = y.shape[1]
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    position, member = row // problem.GROUP, row % problem.GROUP
    valid, dim = row < problem.length * problem.GROUP, tl.arange(0, D)
    if outputs.v_projection is not None:
        offset = position[:, None] * keys.v_stride + dim[None, :]
        direction, _ = unit(tl.load(keys.v + offset, mask=valid[:, None], other=0.0))
        projection = tl.sum(y * direction, 1)
        y -= projection[:, None] * direction
        first_stat = tl.program_id(1).to(tl.int64) * outputs.stats_stride
        tl.store(outputs.v_projection + first_stat + row, projection, mask=valid)
    token = batch.to(tl.int64) * problem.length + position
    line = token * (problem.G * problem.GROUP) + head * problem.GROUP + member
    if gate is not None:
        logit = tl.load(gate + line, mask=valid, other=0.0)
        y *= tl.sigmoid(logit.to(tl.float32))[:, None]
    y = y.to(outputs.y.dtype.element_ty)
    tl.store(outputs.y + line[:, None] * D + dim[None, :], y, mask=valid[:, None])
