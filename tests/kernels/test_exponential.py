"""The polynomials among Hopper's exponentials: their very PTX, a step at a time in fp32."""

import math
import re
import struct

import numpy as np
import pytest

from kernels.hopper.exponential import COEFFICIENTS, PACK, POLYNOMIALS, assembly

# A cubic need not be further from 2^f on [-0.5, 0.5] than Chebyshev's leading term, of the function
# itself; three roundings, each halved at least by the next product with f but the last.
CUBIC = (math.log(2) / 2) ** 4 / (math.factorial(4) * 2**3)
ROUNDING = 2.0**-23
BFLOAT16 = 2.0**-9  # half a bit


def executed(text: str, x: np.ndarray) -> np.ndarray:
    """What ``text`` makes of x, in every one of the registers that it takes.

    Args:
        text: PTX of ``assembly``.
        x: (n,) fp32.

    Returns:
        (PACK, n) fp32.
    """
    pack = PACK.value
    registers = {f"${pack + each}": x for each in range(pack)}
    for step in re.findall(r"([a-z]\w*\.[\w.]+) ([$\w][^;]*);", text):
        operation, (out, *operands) = step[0], step[1].split(", ")
        if operation.startswith("reg"):
            continue
        registers[out] = result(operation.split("."), [value(registers, each) for each in operands])
    return np.stack([registers[f"${each}"].view(np.float32) for each in range(pack)])


def value(registers: dict[str, np.ndarray], operand: str) -> np.ndarray:
    """A register's content, or a constant."""
    if operand.startswith("0f"):
        return np.frombuffer(struct.pack("<I", int(operand[2:], 16)), np.float32)
    return registers[operand] if operand in registers else np.array(operand, np.int32)


def result(operation: list[str], operands: list[np.ndarray]) -> np.ndarray:
    """Of one instruction; products and sums of fp32 rounded once."""
    name, kind = operation[0], np.int32 if operation[-1] in ("b32", "s32") else np.float32
    operands = [each.view(kind) for each in operands]
    if kind is np.int32:
        integers = {"mov": lambda a: a, "shl": np.left_shift, "add": np.add}
        return integers[name](*operands)
    wide = [each.astype(np.float64) for each in operands]
    floats = {
        "mov": lambda a: a,
        "max": np.maximum,
        "add": np.add,
        "sub": np.subtract,
        "fma": lambda a, b, c: a * b + c,
        "ex2": np.exp2,
    }
    return floats[name](*wide).astype(np.float32)


def relative_error(power: np.ndarray, x: np.ndarray) -> np.ndarray:
    return power.astype(np.float64) / np.exp2(x.astype(np.float64)) - 1


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("share", range(len(POLYNOMIALS)))
def test_error_is_far_below_rounding_to_bfloat16(share: int, deep: bool) -> None:
    x = np.linspace(-125, 126.9, 2_000_003, dtype=np.float32)
    errors = np.abs(relative_error(executed(assembly(POLYNOMIALS[share], deep), x), x)).max(1)
    polynomials = set(np.flatnonzero(errors > ROUNDING))
    assert polynomials == set(POLYNOMIALS[share])
    assert len(polynomials) == share * PACK.value // 4
    assert errors.max() < CUBIC + ROUNDING < BFLOAT16 / 25


def test_no_other_cubic_is_better() -> None:
    """Five errors of one size, signs alternating: no cubic has less (de la Vallee Poussin)."""
    f = np.linspace(-0.5, 0.5, 1_000_001)
    errors = np.polyval(COEFFICIENTS[::-1], f) * np.exp2(-f) - 1
    turns = np.flatnonzero(np.diff(np.sign(errors)))
    extremes = [np.abs(piece).max() for piece in np.split(errors, turns + 1)]
    assert len(extremes) == len(COEFFICIENTS) + 1
    assert min(extremes) > 0.999 * max(extremes)


def test_deep_exponents_become_nothing() -> None:
    x = np.linspace(-300, -126, 100_001, dtype=np.float32)
    powers = executed(assembly(tuple(range(PACK.value)), True), x)
    assert np.all((powers >= 0) & (powers <= 2.0**-125.9))


@pytest.mark.parametrize("polynomials", POLYNOMIALS)
def test_a_transposed_tile_has_the_same_polynomials(polynomials: tuple[int, ...]) -> None:
    """Neighbours in a row go together, and swapping bits 3 of row and column changes nothing."""
    chosen = {(each >> 1 & 1, each >> 2 & 1) for each in polynomials}
    assert len(polynomials) == 2 * len(chosen)
    assert chosen == {(column, row) for row, column in chosen}
