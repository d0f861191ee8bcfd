"""What the model's calls of ``norm`` compile to: width 512, bf16 activations, fp32 vectors."""

from kernels.norm import BACKWARD, FORWARD, norm_backward, norm_forward
from kernels.reduce import COLUMNS, ROWS, WARPS, column_sums_kernel
from kernels.rows import row_tile
from tests.kernels.ahead_of_time import Variant

SCALARS = {"rows_total": "i32", "scale": "fp32", "eps": "fp32"}
VECTORS = {"branch": "branch_scale", "skip": "skip_weight", "x0": "mix"}
PARTS = {
    "branch": ["part_branch_scale"],
    "skip": ["part_skip_weight"],
    "x0": ["part_mix_stream", "part_mix_x0"],
}
WIDTH = row_tile(512)


def variant(kernel, name: str, wide: list[str], vectors: list[str], constants: dict) -> Variant:
    signature = dict.fromkeys(wide, "*bf16") | dict.fromkeys(vectors, "*fp32") | SCALARS
    launch = FORWARD if kernel is norm_forward else BACKWARD
    constants = {"ROWS": launch.rows} | WIDTH | constants
    absent = dict.fromkeys(set(kernel.arg_names) - set(signature) - set(constants))
    return Variant(f"{kernel.__name__} {name}", kernel, signature, constants | absent, launch.warps)


def forward(name: str, *given: str, outputs: tuple[str, ...]) -> Variant:
    wide = ["x", *given, *outputs, "normed"]
    return variant(norm_forward, name, wide, [VECTORS[part] for part in given], {})


def backward(name: str, *given: str, grads: tuple[str, ...], x_is_x0: bool = False) -> Variant:
    made = [f"grad_{part}" for part in given if not (x_is_x0 and part == "x0")]
    vectors = [VECTORS[part] for part in given]
    vectors += [vector for part in given for vector in PARTS[part]]
    wide = ["x", *given, *grads, "grad_normed", "grad_x", *made]
    constants = {"X_IS_MIXED": given in ((), ("branch",))}
    return variant(norm_backward, name, wide, vectors, constants)


VARIANTS = [
    forward("alone", outputs=()),
    forward("first layer", "x0", outputs=("mixed",)),
    forward("before the MLP", "branch", outputs=("stream",)),
    forward("encoder layer", "branch", "x0", outputs=("stream", "mixed")),
    forward("decoder layer", "branch", "skip", "x0", outputs=("mixed",)),
    backward("alone", grads=()),
    backward("first layer", "x0", grads=("grad_mixed",), x_is_x0=True),
    backward("before the MLP", "branch", grads=("grad_stream",)),
    backward("encoder layer", "branch", "x0", grads=("grad_stream", "grad_mixed")),
    backward("decoder layer", "branch", "skip", "x0", grads=("grad_mixed",)),
    backward("all", "branch", "skip", "x0", grads=("grad_stream", "grad_mixed")),
    Variant(
        "column_sums_kernel",
        column_sums_kernel,
        {"partial": "*fp32", "sums": "*fp32", "programs": "i32", "width": "i32"},
        {"ROWS": ROWS, "COLUMNS": COLUMNS},
        WARPS,
    ),
]
