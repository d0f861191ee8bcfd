"""Attention's backward pass, first part: all that surrounds the softmax on its way out.

With y the output as returned, g the gradient of it, s = sigmoid(gate) (1 without), u = v / |v|,
along = the softmax's output . u, and everything a vector of one row:

    dgate = g . y (1 - s)
    dO    = s (g - (g . u) u)
    delta = g . y                   is (dO . O) of the softmax as well, gate and XSA or not
          = dO . (y + along u)      with XSA alone
          = dO . v                  where a row sees no key but its own
    dv    = -((g . u) y + along dO) / |v|      summed over the heads of a group: XSA's share

Softmax's gradient cancels where one key has all the weight, but only if delta is taken from the
very dO that meets the values, rounded as it is, hence the third line; and from the very value, for
y has the rounding of a weight besides, hence the fourth.

A pass of its own, as FlashAttention-2's has one for delta: in the kernels of the products the same
lines took 200 us of a layer, for registers that their loops need and for reads of g, y and dO that
the second of them had to repeat.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportUnboundVariable=false
# pyright: reportGeneralTypeIssues=false
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.forward import load_rows, unit

ELEMENTS = 2048  # of a head's tile: 16 a thread of each of six tensors
WARPS = 4


def output_gradients(
    upstream: Tensor,
    y: Tensor,
    v: Tensor,
    gate: Tensor | None,
    documents: Tensor | None,
    along: Tensor | None,
    dgate: Tensor | None,
    inner: Tensor | None,
    delta: Tensor,
    dv: Tensor,
) -> None:
    """Launch ``output_gradients_kernel``, which writes the last four.

    Args:
        upstream: g (B, T, H, D), contiguous.
        y, v, gate, documents, along: as ``attend`` has them.
        dgate: (B, T, H) or None.
        inner: dO (B, T, H, D); None where it is g.
        delta: (B, G, padded rows) fp32.
        dv: (B, T, G, D), tokens ``stride(1)`` apart; left alone without XSA.
    """
    B, T, H, D = y.shape
    G, rows = v.size(2), ELEMENTS // D
    output_gradients_kernel[(triton.cdiv(B * T, rows), G)](
        upstream,
        y,
        v,
        gate,
        documents,
        along,
        dgate,
        inner,
        delta,
        dv,
        B * T,
        T,
        v.stride(1),
        dv.stride(1),
        delta.size(2),
        G=G,
        GROUP=H // G,
        D=D,
        ROWS=rows,
        num_warps=WARPS,
    )


@triton.jit
def output_gradients_kernel(
    upstream_ptr,
    y_ptr,
    v_ptr,
    gate_ptr,
    documents_ptr,
    along_ptr,
    dgate_ptr,
    inner_ptr,
    delta_ptr,
    dv_ptr,
    tokens,
    length,
    v_stride,
    dv_stride,
    stats_stride,
    G: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """dgate, dO, delta and XSA's share of dv for ROWS tokens and one group of heads.

    At 98,304 tokens and 8/4 heads of 64 reads g and y (201 MB), 47 us at 4275 GB/s; with XSA reads
    v and writes dO and dv besides (201 MB more): 94 us.
    """
    # Divisions in 32 bits: in 64 they take longer than the rest.
    token, head = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    valid = token < tokens
    position = token % length
    head_index = (token // length * G + head).to(tl.int64)
    first_stat = head_index * stats_stride + position * GROUP
    token = token.to(tl.int64)
    first_line = token * (G * GROUP) + head * GROUP
    dim = tl.arange(0, D)[None, :]
    place = (token * v_stride + head * D)[:, None] + dim
    start = 0
    if documents_ptr is not None:
        start = tl.load(documents_ptr + token, mask=valid, other=0)
    alone = position == start
    needed = valid & alone if along_ptr is None else valid
    direction = tl.load(v_ptr + place, mask=needed[:, None], other=0.0).to(tl.float32)
    if along_ptr is not None:
        direction, inverse = unit(direction)
        dv = tl.zeros((ROWS, D), tl.float32)
    for member in tl.static_range(GROUP):
        line, stat = first_line + member, first_stat + member
        lines = tokens * (G * GROUP)
        upstream = load_rows(upstream_ptr, line, D, lines, True, D)
        y = load_rows(y_ptr, line, D, lines, True, D).to(tl.float32)
        gradient = upstream.to(tl.float32)
        delta = tl.sum(gradient * y, 1)
        if along_ptr is not None:
            taken = tl.sum(gradient * direction, 1)
            dv -= taken[:, None] * y
            gradient -= taken[:, None] * direction
        if gate_ptr is not None:
            logit = tl.load(gate_ptr + line, mask=valid, other=0.0).to(tl.float32)
            dgate = delta * tl.sigmoid(-logit)
            tl.store(dgate_ptr + line, dgate.to(dgate_ptr.dtype.element_ty), mask=valid)
            gradient *= tl.sigmoid(logit)[:, None]
        inner = gradient.to(upstream.dtype)
        rounded = inner.to(tl.float32)
        if inner_ptr is not None:
            tl.store(inner_ptr + (line * D)[:, None] + dim, inner, mask=valid[:, None])
        by_value = tl.sum(rounded * direction, 1)
        if along_ptr is not None:
            along = tl.load(along_ptr + stat, mask=valid, other=0.0)
            dv -= along[:, None] * rounded
            if gate_ptr is None:
                delta = tl.sum(rounded * y, 1) + along * by_value
            by_value /= inverse
        delta = tl.where(alone, by_value, delta)
        tl.store(delta_ptr + stat, delta, mask=valid)
    if along_ptr is not None:
        place = (token * dv_stride + head * D)[:, None] + dim
        dv = (dv * inverse[:, None]).to(dv_ptr.dtype.element_ty)
        tl.store(dv_ptr + place, dv, mask=valid[:, None])
