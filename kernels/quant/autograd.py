"""The compute copy of a weight in one pass, on the int6 grid if a device-side lever says so."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common.launch import Launch
from kernels.common.rows import row_count
from kernels.operand import FP8, LARGEST_FP8, LEAST_SCALE, Operand
from kernels.quant.reference import INT6_LEVELS

LAUNCH = Launch(elements=4_096, warps=4)  # 32 a thread
LEVELS = tl.constexpr(INT6_LEVELS)
LARGEST, LEAST = tl.constexpr(LARGEST_FP8), tl.constexpr(LEAST_SCALE)
# Adding and subtracting 1.5 * 2^23 rounds an fp32 below 2^22 to the nearest integer, halves to
# even, because the additions round in this way.
WHOLE = tl.constexpr(12582912.0)


def quant(
    weight: Tensor,
    dtype: torch.dtype,
    qat: Tensor | None = None,
    min_step: float = 0.0,
    row_scale: Tensor | None = None,
    fp8: bool = False,
) -> Operand:
    """Compute ``kernels.quant.Quant`` in one pass; return ``weight`` itself if nothing changes."""
    if qat is None and row_scale is None and weight.dtype == dtype and not fp8:
        return Operand(weight)
    copy, values, scale = Quant.apply(weight, dtype, qat, min_step, row_scale, fp8)  # pyright: ignore[reportGeneralTypeIssues]
    return Operand(values, scale, copy) if fp8 else Operand(copy)


class Quant(torch.autograd.Function):
    """Pass the gradient straight through, cast to the master's dtype and times the row's factor.

    Saves the weight if there are factors.
    """

    @staticmethod
    def forward(ctx: Any, weight, dtype, qat, min_step, row_scale, fp8):
        weight = weight.contiguous()
        if row_scale is not None:
            row_scale = row_scale.contiguous()
            ctx.save_for_backward(weight, qat, row_scale)
        ctx.dtype, ctx.min_step = weight.dtype, min_step
        values = torch.empty_like(weight, dtype=FP8) if fp8 else None
        scale = torch.empty_like(weight[..., 0], dtype=torch.float32) if fp8 else None
        if values is not None:
            ctx.mark_non_differentiable(values, scale)
        return launch(weight, dtype, qat, min_step, row_scale, values, scale), values, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None):  # pyright: ignore[reportIncompatibleMethodOverride]
        into_scale = None
        if ctx.saved_tensors:
            gradient, into_scale = launch_backward(gradient, *ctx.saved_tensors, ctx.min_step)
        elif gradient.dtype != ctx.dtype:
            gradient = launch(gradient.contiguous(), ctx.dtype)
        return gradient, None, None, None, into_scale, None


def row_constants(width: int) -> dict[str, Any]:
    """Return the columns of a row, and the tile that holds as many rows as ``LAUNCH`` allows."""
    columns = triton.next_power_of_2(width)
    return {"C": width, "COLUMNS": columns, "ROWS": max(1, LAUNCH.elements // columns)}


def least_step(min_step: float) -> float:
    """Return ``min_step``, or the smallest positive step, so that a row of zeros has a step."""
    return max(min_step, torch.finfo(torch.float32).tiny)


def launch(
    source: Tensor,
    dtype: torch.dtype,
    qat: Tensor | None = None,
    min_step: float = 0.0,
    row_scale: Tensor | None = None,
    values: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Return a copy of ``source`` in ``dtype``, made row by row; write it in fp8, too, if given."""
    copy = torch.empty_like(source, dtype=dtype)
    rows, tile = row_count(source), row_constants(source.size(-1))
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    given = (source, copy, qat, row_scale, values, scale, rows, least_step(min_step))
    quant_rows[grid](*given, **tile, **LAUNCH.options)
    return copy


def launch_backward(
    gradient: Tensor, weight: Tensor, qat: Tensor | None, row_scale: Tensor, min_step: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and row_scale."""
    into_weight, into_scale = torch.empty_like(weight), torch.empty_like(row_scale)
    rows, tile = row_count(weight), row_constants(weight.size(-1))
    scaled_gradients[(triton.cdiv(rows, tile["ROWS"]),)](
        gradient.contiguous(),
        weight,
        qat,
        row_scale,
        into_weight,
        into_scale,
        rows,
        least_step(min_step),
        **tile,
        **LAUNCH.options,
    )
    return into_weight, into_scale


@triton.jit
def on_grid(value, min_step):
    """Return a tile of rows fp32, each rounded to its int6 grid."""
    largest = tl.max(tl.abs(value), axis=1, keep_dims=True)
    step = tl.maximum(tl.div_rn(largest, LEVELS * 1.0), min_step)
    code = (tl.div_rn(value, step) + WHOLE) - WHOLE
    return tl.minimum(tl.maximum(code, -LEVELS), LEVELS) * step


@triton.jit
def faked(value, qat, min_step):
    """Return a tile of rows fp32, rounded to the int6 grid if the lever is above 0.5."""
    if tl.load(qat) > 0.5:  # of all programs alike; without the branch all would divide
        value = on_grid(value, min_step)
    return value


@triton.jit
def quant_rows(
    source,
    copy,
    qat,
    row_scale,
    values,
    scale,
    rows_total,
    min_step,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write ``copy = source``, or ``code * step`` if qat is above 0.5, times row_scale.

        step = max(max|row| / 31, min_step),  code = clamp(round(value / step), -31, 31)

    source and copy (N, C) in any float dtypes, row_scale (N,) fp32 or None. Divisions are IEEE's,
    so codes equal the reference's. values (N, C) e4m3 and scale (N,) fp32: the copy in fp8, unless
    they are None.

    Banks of 26.0 M weights, fp32 to bf16, move 156 MB. The grid's divisions take about 1,000
    instructions for 1,024 elements of a warp; only with the lever on. A tile is 4,096 elements,
    32 a thread: 44 registers for a copy, 89 for the grid. 1,536 columns leave a quarter of the
    lanes idle, which moves no more bytes.
    """
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    offsets, mask = rows * C + columns, (rows < rows_total) & (columns < C)
    value = tl.load(source + offsets, mask=mask, other=0.0).to(tl.float32)
    if qat is not None:
        value = faked(value, qat, min_step)
    if row_scale is not None:
        value *= tl.load(row_scale + rows, mask=rows < rows_total, other=0.0)
    tl.store(copy + offsets, value.to(copy.dtype.element_ty), mask=mask)
    if values is not None:
        norm = tl.sqrt_rn(tl.sum(value * value, axis=1, keep_dims=True))
        by = tl.maximum(tl.div_rn(norm, LARGEST), LEAST)
        tl.store(values + offsets, tl.div_rn(value, by).to(values.dtype.element_ty), mask=mask)
        tl.store(scale + rows, by, mask=rows < rows_total)


@triton.jit
def scaled_gradients(
    gradient,
    weight,
    qat,
    row_scale,
    into_weight,
    into_scale,
    rows_total,
    min_step,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the gradients of a scaled copy's weight and row_scale.

        into_weight = row_scale * gradient,  into_scale = sum over columns of gradient * copy

    copy is the weight as ``quant_rows`` computes it before row_scale. It was not kept, so it is
    computed again. gradient (N, C) in any float dtype, weight and into_weight fp32, row_scale
    and into_scale (N,) fp32. 14.4 M weights of O (with Q) and down move 144 MB.
    """
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    offsets, mask = rows * C + columns, (rows < rows_total) & (columns < C)
    grad = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(weight + offsets, mask=mask, other=0.0)
    scale = tl.load(row_scale + rows, mask=rows < rows_total, other=0.0)
    if qat is not None:
        value = faked(value, qat, min_step)
    tl.store(into_weight + offsets, grad * scale, mask=mask)
    sums = tl.sum(grad * value, axis=1, keep_dims=True)
    tl.store(into_scale + rows, sums, mask=rows < rows_total)
