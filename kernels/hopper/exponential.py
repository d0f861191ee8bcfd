"""Powers of 2, a share of them off the special-function unit.

That unit takes 16 a clock of a multiprocessor, at head dim 64 as long as a score's two products.
The FMA units have clocks to spare, so some are a polynomial there: FlashAttention-4's idea.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
import struct

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# 2^f on [-0.5, 0.5] from the constant up: the cubic of least largest relative error, 7.48e-5. Half
# a bit of bf16 is 26 times that.
COEFFICIENTS = (0.9999280571937561, 0.6932609677314758, 0.2426111251115799, 0.0551716685295105)
ROUNDER = 1.5 * 2**23  # added to |x| < 2^22 in fp32, it leaves round(x) in the lowest bits
LEAST = -126.0  # the exponent of the least normal number
# A thread's registers that one block of assembly takes in their order, and which of them are
# polynomials, by share. In a product's layout bit 1 of a register's number is bit 3 of its row, bit
# 2 is bit 3 of its column: chosen by both alike, a weight is computed alike where scores are
# transposed.
PACK = gl.constexpr(8)
POLYNOMIALS = ((), (6, 7), (2, 3, 4, 5))


def assembly(polynomials: tuple[int, ...], deep: bool) -> str:
    """PTX of ``PACK`` powers of 2, of which the numbers ``polynomials`` are polynomials."""
    pack = PACK.value
    # ftz as gl.exp2 has it: without, the assembler scales for results that are not normal.
    lines = [
        polynomial(f"${each}", f"${pack + each}", deep)
        if each in polynomials
        else f"ex2.approx.ftz.f32 ${each}, ${pack + each};"
        for each in range(pack)
    ]
    return "\n".join(lines)


def polynomial(out: str, x: str, deep: bool) -> str:
    """PTX of one power of 2: n = round(x) added to the exponent of 2^(x - n), which Horner's rule
    has."""
    *lower, leading = [literal(each) for each in COEFFICIENTS]
    steps = [
        "{ .reg .f32 x, n, f, p; .reg .b32 t, r;",
        f"max.f32 x, {x}, {literal(LEAST)};" if deep else f"mov.f32 x, {x};",
        f"add.rn.f32 n, x, {literal(ROUNDER)};",
        "mov.b32 t, n;",
        f"sub.rn.f32 n, n, {literal(ROUNDER)};",
        "sub.rn.f32 f, x, n;",
        f"mov.f32 p, {leading};",
        *(f"fma.rn.f32 p, p, f, {each};" for each in reversed(lower)),
        "shl.b32 t, t, 23;",  # and the rounder's own bits out
        "mov.b32 r, p;",
        "add.s32 r, r, t;",
        f"mov.b32 {out}, r; }}",
    ]
    return "\n".join(steps)


def literal(x: float) -> str:
    """An fp32 constant of PTX."""
    return f"0f{struct.unpack('>I', struct.pack('>f', x))[0]:08X}"


# Results are written before all arguments are read: none may share a register with one.
CONSTRAINTS = gl.constexpr(",".join(["=&f"] * PACK.value + ["f"] * PACK.value))
# Text that a kernel names is part of what its compiled form is kept by.
SHALLOW = gl.constexpr(tuple(assembly(each, False) for each in POLYNOMIALS))
DEEP = gl.constexpr(tuple(assembly(each, True) for each in POLYNOMIALS))


@gluon.jit
def exponential(x, SHARE: gl.constexpr, BOUNDED: gl.constexpr):
    """2^x of x (rows, columns) fp32, in a ``product_layout`` of at least 16 columns; SHARE of 4 (0,
    1 or 2) by a polynomial, whose relative error is 7.5e-5.

    With polynomials x is a number below 127. Where it may be below -125 it is not BOUNDED, and an
    instruction more keeps such powers at 2^-126, nothing beside the greatest weight of a row.
    """
    if SHARE > 0:
        text: gl.constexpr = SHALLOW[SHARE] if BOUNDED else DEEP[SHARE]
        power = gl.inline_asm_elementwise(
            text, CONSTRAINTS, [x], dtype=gl.float32, is_pure=True, pack=PACK
        )
    else:
        power = gl.exp2(x)
    return power
