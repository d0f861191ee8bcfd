"""What the model's calls of ``norm`` and ``mix_norm`` compile to: width 512, bf16, fp32 vectors."""

from kernels.common.fp8 import Rounded
from kernels.common.launch import Launch
from kernels.common.reduce import LAUNCH as REDUCE
from kernels.common.reduce import column_sums_kernel
from kernels.common.rows import row_tile
from kernels.norm import gate, mix_norm, norm
from kernels.norm.gate import Gate, GateGradients
from tests.kernels.tools.ahead_of_time import Variant

SCALARS = {"rows_total": "i32", "scale": "fp32"}
INPUTS = mix_norm.Inputs("*bf16", "*bf16", "*bf16", "*fp32", "*fp32")
GRADIENTS = mix_norm.Gradients("*bf16", "*bf16", "*bf16", "*bf16")
GATE = Gate("*fp32", "*bf16", 8, 12, 8, 16)
INTO = mix_norm.InputGradients("*bf16", "*bf16", "*bf16", "*fp32", "i32")
BY_GATE = GateGradients("*bf16", "*fp32", 16)


def variant(kernel, name: str, launch: Launch, arguments: dict, **constants: None) -> Variant:
    """At the launch's tile."""
    signature = SCALARS | arguments | {"tile": row_tile(512, launch.rows)}
    return Variant(f"{kernel.__name__} {name}", kernel, signature, constants, launch.warps)


def norm_backward(name: str, *absent: str) -> Variant:
    given = {"normed", "grad_x", "grad_normed", "into_x"} - set(absent)
    arguments = dict.fromkeys(given, "*bf16") | {"inverse_rms": "*fp32"}
    return variant(
        norm.norm_backward, name, norm.LAUNCH["backward"], arguments, **dict.fromkeys(absent)
    )


def entry(name: str, *absent: str, gate: Gate | None = None) -> Variant:
    return variant(
        mix_norm.mix_norm_forward,
        name,
        mix_norm.LAUNCH["forward"],
        {
            "inputs": INPUTS._replace(**dict.fromkeys(set(absent) - {"mixed"})),
            "mixed": None if "mixed" in absent else "*bf16",
            "normed": "*bf16",
            "inverse_rms": "*fp32",
            "eps": "fp32",
            "gate": gate,
        },
    )


def entry_backward(
    name: str, gradients: dict, into: dict, *absent: str, by_gate: GateGradients | None = None
) -> Variant:
    """All members given but the inputs ``absent``, and those that are None."""
    arguments = {
        "inputs": INPUTS._replace(**dict.fromkeys(absent)),
        "inverse_rms": "*fp32",
        "grads": GRADIENTS._replace(**gradients),
        "into": INTO._replace(**into),
        "by_gate": by_gate,
    }
    launch = mix_norm.LAUNCH["backward"]
    return variant(mix_norm.mix_norm_backward, name, launch, arguments)


def gate_backward(name: str, *absent: str) -> Variant:
    arguments = {"inputs": INPUTS._replace(**dict.fromkeys(absent)), "inverse_rms": "*fp32"}
    arguments |= {"gate": GATE, "into": BY_GATE}
    return variant(gate.gate_backward, name, gate.LAUNCH, arguments)


MIDDLE = {"x": "*bf16", "normed": "*bf16", "inverse_rms": "*fp32", "eps": "fp32"}
ROUNDED = Rounded("*fp8e4nv", "*fp32")
SKIP = ("skip", "skip_weight")
NO_SKIP, NO_X0, NO_STREAM = {"skip": None}, {"x0": None}, {"stream": None}
VARIANTS = [
    variant(
        norm.norm_forward,
        "middle",
        norm.LAUNCH["forward"],
        MIDDLE | {"rounded": None},
    ),
    variant(
        norm.norm_forward, "middle in fp8", norm.LAUNCH["forward"], MIDDLE | {"rounded": ROUNDED}
    ),
    norm_backward("middle"),
    norm_backward("final", "grad_x"),
    entry("entry", *SKIP),
    entry("entry with skip"),
    entry("entry with gate", *SKIP, gate=GATE),
    entry("entry with skip and gate", gate=GATE),
    entry("entry of a lane", "mixed", gate=GATE),
    entry_backward("first layer", NO_STREAM, NO_SKIP | NO_X0, *SKIP),
    entry_backward("entry", NO_STREAM, NO_SKIP, *SKIP),
    entry_backward("entry of a kept stream", {}, NO_SKIP, *SKIP),
    entry_backward("entry with skip", NO_STREAM, {}),
    entry_backward("all", {}, {}),
    entry_backward("entry with gate", NO_STREAM, NO_SKIP, *SKIP, by_gate=BY_GATE),
    entry_backward("all with gate", {}, {}, by_gate=BY_GATE),
    gate_backward("entry", *SKIP),
    gate_backward("entry with skip"),
    Variant(
        "column_sums_kernel",
        column_sums_kernel,
        {"partial": "*fp32", "sums": "*fp32", "programs": "i32", "width": "i32"},
        {"ROWS": REDUCE.rows, "COLUMNS": REDUCE.columns},
        REDUCE.warps,
    ),
]
