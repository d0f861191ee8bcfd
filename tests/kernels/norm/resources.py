"""What the model's calls of ``norm`` and ``mix_norm`` compile to: width 512, bf16, fp32 vectors."""

from kernels.common.reduce import COLUMNS, ROWS, WARPS, column_sums_kernel
from kernels.common.rows import Launch, row_tile
from kernels.norm import mix_norm, norm
from tests.kernels.tools.ahead_of_time import Variant

SCALARS = {"rows_total": "i32", "vector_size": "i32", "scale": "fp32", "eps": "fp32"}
FP32 = {"inverse_rms", "skip_weight", "mix", "partial"}


def variant(kernel, name: str, launch: Launch, *absent: str) -> Variant:
    """All arguments given but those ``absent``."""
    constants = row_tile(512) | {"ROWS": launch.rows} | dict.fromkeys(absent)
    given = [argument for argument in kernel.arg_names if argument not in constants]
    signature = {
        argument: SCALARS.get(argument, "*fp32" if argument in FP32 else "*bf16")
        for argument in given
    }
    return Variant(f"{kernel.__name__} {name}", kernel, signature, constants, launch.warps)


def entry(name: str, *absent: str) -> Variant:
    return variant(mix_norm.mix_norm_forward, name, mix_norm.FORWARD, *absent)


def entry_backward(name: str, *absent: str) -> Variant:
    return variant(mix_norm.mix_norm_backward, name, mix_norm.BACKWARD, *absent)


SKIP = ("skip", "skip_weight")
VARIANTS = [
    variant(norm.norm_forward, "middle", norm.FORWARD),
    variant(norm.norm_backward, "middle", norm.BACKWARD),
    variant(norm.norm_backward, "final", norm.BACKWARD, "grad_x"),
    entry("entry", *SKIP),
    entry("entry with skip"),
    entry_backward("first layer", *SKIP, "into_skip", "grad_stream", "into_x0"),
    entry_backward("entry", *SKIP, "into_skip", "grad_stream"),
    entry_backward("entry of a kept stream", *SKIP, "into_skip"),
    entry_backward("entry with skip", "grad_stream"),
    entry_backward("all"),
    Variant(
        "column_sums_kernel",
        column_sums_kernel,
        {"partial": "*fp32", "sums": "*fp32", "programs": "i32", "width": "i32"},
        {"ROWS": ROWS, "COLUMNS": COLUMNS},
        WARPS,
    ),
]
