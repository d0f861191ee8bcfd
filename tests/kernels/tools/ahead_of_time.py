"""Compile Triton kernels for sm_90 without a GPU, and read what the assembler made of them.

``python -m tests.kernels.tools.ahead_of_time`` prints every variant's resources as a table; the
tests run it in a process of its own, because under TRITON_INTERPRET no kernel can be compiled.
"""

import importlib
import json
import re
import struct
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from files import PROJECT

HOPPER = GPUTarget("cuda", 90, 32)
SHARED_LIMIT = 227 * 1024  # bytes that one block may have on an H100 or H200
LOCAL, PRODUCT = r"\b(?:LDL|STL)\b", r"\b[HQ]GMMA\b"
KERNEL_TESTS = PROJECT / "tests" / "kernels"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Folders of tests/kernels whose resources.py has a VARIANTS list.
OPERATIONS = tuple(sorted(path.parent.name for path in KERNEL_TESTS.glob("*/resources.py")))


@dataclass(frozen=True)
class Variant:
    """One kernel at one set of tile sizes, as a launch on a GPU would compile it.

    Attributes:
        name: for the table.
        kernel: the ``@triton.jit`` or ``@gluon.jit`` function.
        signature: run-time argument to type, as ``"*bf16"``, ``"fp32"``, ``"i32"``, or to a
            NamedTuple of these. Members that are no strings are constants, such as None.
        constants: ``tl.constexpr`` argument to value.
        num_warps, num_stages, maxnreg: launch options.
        unaligned: run-time arguments, or members as ``"inputs.length"``, that are not known to be
            divisible by 16; all other pointers and integers are, as they are at real sizes.
        specialised: warps have roles, and what they share is computed before they part: a few
            addresses on the stack are no harm, if the loops with products never touch it.
    """

    name: str
    kernel: Any
    signature: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None
    unaligned: frozenset[str] = field(default_factory=frozenset)
    specialised: bool = False


@dataclass(frozen=True)
class Resources:
    """What a variant takes: ``stack`` bytes and local loads and stores are spills, ``hot`` those in
    innermost loops with products."""

    name: str
    registers: int
    stack: int
    shared: int
    local_accesses: int
    hot_local_accesses: int
    tensor_core_products: int
    specialised: bool


class Compiled(NamedTuple):
    """A variant for sm_90: its cubin, and what the assembler says of it."""

    variant: Variant
    cubin: bytes
    registers: int
    stack: int
    shared: int


def compile_variant(variant: Variant) -> Compiled:
    """Compile for sm_90."""
    source = kernel_source(variant)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    if variant.maxnreg is not None:
        options["maxnreg"] = variant.maxnreg
    compiled = triton.compile(source, target=HOPPER, options=options)
    usage = run_on(compiled.asm["cubin"], "cuobjdump", "--dump-resource-usage")
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))  # pyright: ignore[reportOptionalSubscript]
    return Compiled(variant, compiled.asm["cubin"], registers, stack, compiled.metadata.shared)


def disassembled(every: Sequence[Compiled]) -> Iterator[Resources]:
    """Yield what variants take.

    The disassembler takes half a second to start. So the code of those without a stack, whose loops
    nobody asks for, goes through it in one piece.
    """
    plain = [each for each in every if not each.stack]
    texts = [code_of(each.cubin) for each in plain]
    joined = run_on(b"".join(texts), "nvdisasm", "--binary", "SM90a") if plain else ""
    ends = [*accumulate(map(len, texts))]
    counts = [[0, 0] for _ in plain]
    for line in joined.splitlines():
        if at := re.match(r"\s*/\*([0-9a-f]+)\*/", line):
            of_variant = counts[bisect_right(ends, int(at[1], 16))]
            of_variant[0] += len(re.findall(LOCAL, line))
            of_variant[1] += len(re.findall(PRODUCT, line))
    of_plain = iter(counts)
    for each in every:
        hot = 0
        if each.stack:
            code = run_on(each.cubin, "nvdisasm", "-c")
            hot = sum(len(re.findall(LOCAL, loop)) for loop in product_loops(code))
            local, products = len(re.findall(LOCAL, code)), len(re.findall(PRODUCT, code))
        else:
            local, products = next(of_plain)
        found = each.registers, each.stack, each.shared, local, hot, products
        yield Resources(each.variant.name, *found, each.variant.specialised)


def code_of(cubin: bytes) -> bytes:
    """Return a kernel's instructions: the section of a 64-bit ELF file that is named ``.text.``."""
    table, entry, number, names = struct.unpack_from("<Q10xHHH", cubin, 40)
    sections = [struct.unpack_from("<I20xQQ", cubin, table + entry * i) for i in range(number)]
    named = sections[names][1]
    (found,) = (
        cubin[offset : offset + size]
        for name, offset, size in sections
        if cubin.startswith(b".text.", named + name)
    )
    return found


def kernel_source(variant: Variant) -> Any:
    """Return what ``triton.compile`` takes: the kernel with its arguments' types and constants.

    Raises:
        ValueError: the variant does not name each argument once.
    """
    names = variant.kernel.arg_names
    if sorted(names) != sorted([*variant.signature, *variant.constants]):
        raise ValueError(f"{variant.name}: signature and constants must name all of {names}")
    signature: dict[str, Any] = dict.fromkeys(names, "constexpr")
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    aligned = {}
    for name, given in variant.signature.items():
        signature[name] = types(given)
        for path, member, value in leaves(given, (names.index(name),), name):
            if not isinstance(value, str):
                constants[path] = value
            elif value.startswith(("*", "i")) and member not in variant.unaligned:
                aligned[path] = [["tt.divisibility", 16]]
    language = GluonASTSource if variant.kernel.is_gluon() else ASTSource
    return language(variant.kernel, signature=signature, constexprs=constants, attrs=aligned)


def types(given: Any) -> Any:
    """Types of an argument as Triton's ``specialize_impl`` would return them for a launch's."""
    if isinstance(given, tuple):
        return type(given)(*map(types, given))
    return given if isinstance(given, str) else "constexpr"


def leaves(given: Any, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple, str, Any]]:
    """Path, dotted name and type or constant of an argument, or of each member of its."""
    if not isinstance(given, tuple):
        yield path, name, given
        return
    for index, (field_name, value) in enumerate(given._asdict().items()):  # pyright: ignore[reportAttributeAccessIssue]
        yield from leaves(value, (*path, index), f"{name}.{field_name}")


def product_loops(code: str) -> list[str]:
    """Innermost loops of disassembled code that hold a tensor core product.

    A loop closes on a condition; unconditional branches back are the ways out of a barrier's wait.
    """
    lines, labels, loops = code.splitlines(), {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = number
        branch = re.search(r"@!?U?P\d\s+BRA\b.*`\((\.L_\w+)\)", line)
        if branch and branch[1] in labels:
            loops.append((labels[branch[1]], number))
    bodies = {span: "\n".join(lines[span[0] : span[1] + 1]) for span in loops}
    found = [span for span in loops if re.search(PRODUCT, bodies[span])]
    return [
        bodies[span]
        for span in found
        if not any(span != one and span[0] <= one[0] and one[1] <= span[1] for one in found)
    ]


def run_on(data: bytes, tool: str, *arguments: str) -> str:
    """Output of one of the CUDA tools that Triton's package carries, on a file of ``data``."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        command = [str(TOOLS / tool), *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def variants(operations: tuple[str, ...] = OPERATIONS) -> Iterator[Variant]:
    """All variants of the operations."""
    for operation in operations:
        yield from importlib.import_module(f"tests.kernels.{operation}.resources").VARIANTS


def main(arguments: list[str]) -> int:
    """One JSON object a line: each variant's resources."""
    every = [compile_variant(variant) for variant in variants(tuple(arguments) or OPERATIONS)]
    for resources in disassembled(every):
        print(json.dumps(asdict(resources)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
