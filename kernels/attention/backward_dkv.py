"""Attention's backward pass in Triton, third part: gradients of keys and values.

    P = 2^(query key^T - lse);   dscores = P * (dout v^T - delta)
    dv = P^T dout;   dk = dscores^T query through rope and norm

dout (B, T, H, D), query, key, v, and the results dk and dv (B, T, G, D) have one dtype; delta, lse
(B, G, padded T * GROUP) and rstd (B, G, padded T) are fp32. Other shapes as in ``saved.Saved``.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.rope import rope_argument, rotate_back
from kernels.attention.saved import Saved
from kernels.attention.visible import (
    head_keys,
    keys_argument,
    launch_for,
    load_rows,
    problem_argument,
    visible_rows,
)
from kernels.common.launch import Launch
from kernels.common.math import LN_2

# By head dim: the entry of the smallest that holds it.
LAUNCH = {
    64: Launch(rows=32, columns=64, warps=4, stages=3, registers=168),
    128: Launch(rows=64, columns=64, warps=8, stages=2),
}


class Inputs(NamedTuple):
    """Queries, gradients of the softmax's output, statistics, and elements between groups of these.

    A program has a copy whose pointers begin at its window and group.
    """

    query: Any
    dout: Any
    lse: Any
    delta: Any
    stats_stride: Any


class Statistics(NamedTuple):
    """1/rms of keys, with ``stride`` elements between groups."""

    rstd: Any
    stride: Any


class Outputs(NamedTuple):
    """dk and dv, elements between their tokens, and whether XSA's part is in dv already."""

    dk: Any
    dv: Any
    stride: Any
    XSA: Any


class OwnKeys(NamedTuple):
    """A tile of keys: key and value (KEYS, D).

    Of each key its position and its stop, the first later position that does not see it.
    """

    key: Any
    value: Any
    position: Any
    stop: Any


def backward_dkv(saved: Saved, dout: Tensor, delta: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Launch ``backward_dkv_kernel``, which writes dk and dv.

    Args:
        saved: the forward pass's operands and results.
        dout, delta: as ``backward_dq`` takes them.
        dk, dv: (B, T, G, D) of one token stride; with XSA, dv holds what ``backward_prepare`` wrote
            and is added to.
    """
    (B, G, T, D), key_rstd = saved.key.shape, saved.key_rstd
    launch = launch_for(LAUNCH, D)
    backward_dkv_kernel[(triton.cdiv(T, launch.columns), B * G)](
        Inputs(saved.query, dout, saved.lse, delta, delta.size(2)),
        keys_argument(saved.key, saved.v),
        Statistics(key_rstd, key_rstd.size(2)),
        rope_argument(saved.rope),
        problem_argument(saved),
        Outputs(dk, dv, dk.stride(1), tl.constexpr(saved.v_projection is not None)),
        D=D,
        ROWS=launch.rows,
        KEYS=launch.columns,
        **launch.options,
    )


@triton.jit
def backward_dkv_kernel(
    inputs,
    keys,
    statistics,
    rope,
    problem,
    outputs,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Compute dk and dv of KEYS keys, summed over all rows that see them: a group's heads included.

    Scores are kept transposed, (KEYS, ROWS), so that probabilities and their gradients leave one
    product's registers as the next one's left operand. The longest tile, that of the first keys,
    comes first.
    """
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    first_token = batch.to(tl.int64) * problem.length
    position = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    valid = position < problem.length
    first_stat = tl.program_id(1).to(tl.int64) * inputs.stats_stride
    first_row = tl.program_id(1).to(tl.int64) * (problem.length * problem.GROUP)
    first_line = first_token * (problem.G * problem.GROUP) + head * problem.GROUP
    rows = Inputs(
        inputs.query + first_row * D,
        inputs.dout + first_line * D,
        inputs.lse + first_stat,
        inputs.delta + first_stat,
        inputs.stats_stride,
    )
    keys = head_keys(keys, problem, D)
    key = load_rows(keys.key, position, D, problem.length, True, D)
    value = load_rows(keys.v, position, keys.v_stride, problem.length, True, D)

    stop, begin, end, whole_begin, whole = visible_rows(
        problem, first_token, position, valid, ROWS, KEYS
    )
    own = OwnKeys(key, value, position, stop)
    dk = tl.zeros((KEYS, D), tl.float32)
    dv = tl.zeros((KEYS, D), tl.float32)
    for first in range(begin, end - whole, ROWS):
        first += tl.where(first < whole_begin, 0, whole)
        dk, dv = take_rows(own, dk, dv, rows, first, problem, True, ROWS)
    for first in range(whole_begin, whole_begin + whole, ROWS):
        dk, dv = take_rows(own, dk, dv, rows, first, problem, False, ROWS)

    token = (first_token + position) * outputs.stride + head * D
    offset = token[:, None] + tl.arange(0, D)[None, :]
    if outputs.XSA:
        dv += tl.load(outputs.dv + offset, mask=valid[:, None], other=0.0).to(tl.float32)
    tl.store(outputs.dv + offset, dv.to(outputs.dv.dtype.element_ty), mask=valid[:, None])
    rotated = load_rows(keys.key, position, D, problem.length, True, D).to(tl.float32)
    stat = tl.program_id(1).to(tl.int64) * statistics.stride + position
    rstd = tl.load(statistics.rstd + stat, mask=valid, other=0.0)
    dk = (dk - rotated * (tl.sum(dk * rotated, 1) / D)[:, None]) * (rstd * LN_2)[:, None]
    dk = rotate_back(dk, position, valid, rope, D)
    tl.store(outputs.dk + offset, dk.to(outputs.dk.dtype.element_ty), mask=valid[:, None])


@triton.jit
def take_rows(own, dk, dv, rows, first, problem, MASKED: tl.constexpr, ROWS: tl.constexpr):
    """Return dk and dv with what one tile of rows adds to them."""
    D: tl.constexpr = dk.shape[1]
    count = problem.length * problem.GROUP
    row = first + tl.arange(0, ROWS)
    query = load_rows(rows.query, row, D, count, MASKED, D)
    dout = load_grouped(rows.dout, row, count, problem, MASKED, D)
    if MASKED:
        lse = tl.load(rows.lse + row, mask=row < count, other=0.0)
        delta = tl.load(rows.delta + row, mask=row < count, other=0.0)
    else:
        lse = tl.load(rows.lse + row)
        delta = tl.load(rows.delta + row)
    scores = tl.dot(own.key, tl.trans(query), input_precision="ieee")
    weights = tl.exp2(scores - lse[None, :])
    if MASKED:
        position = row // problem.GROUP
        visible = own.position[:, None] <= position[None, :]
        visible &= position[None, :] < own.stop[:, None]
        weights = tl.where(visible, weights, 0.0)
    dv = tl.dot(weights.to(own.value.dtype), dout, dv, input_precision="ieee")
    dweights = tl.dot(own.value, tl.trans(dout), input_precision="ieee")
    dscores = weights * (dweights - delta[None, :])
    dk = tl.dot(dscores.to(query.dtype), query, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def load_grouped(ptr, row, rows, problem, MASKED: tl.constexpr, D: tl.constexpr):
    """Return rows (position, head of the group) of a (T, H, D) tensor.

    ``ptr`` is at the group's first head.
    """
    GROUP: tl.constexpr = problem.GROUP
    offset = (row // GROUP) * (problem.G * GROUP * D) + (row % GROUP) * D
    ptrs = ptr + offset[:, None] + tl.arange(0, D)[None, :]
    return tl.load(ptrs, mask=(row < rows)[:, None], other=0.0) if MASKED else tl.load(ptrs)
