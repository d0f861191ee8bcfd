"""What the model's calls of ``lanes`` compile to: width 512, bf16, fp32 factors."""

from kernels.common.rows import row_tile
from kernels.lanes import autograd
from tests.kernels.tools.ahead_of_time import Variant

WIDE = dict.fromkeys(("first", "second", "attention", "mlp", "skip"), "*bf16")
INPUTS = autograd.Inputs(
    **WIDE, keep="*fp32", mix="*fp32", skip_weight="*fp32", first_weight="*fp32"
)
INTO = autograd.InputGradients(**WIDE, factors="*fp32", skip_weight="*fp32", first_weight="*fp32")
NO_GATE = {"first_weight": None}
NO_SKIP = {"skip": None, "skip_weight": None} | NO_GATE


def variants(name: str, absent: dict[str, None]) -> list[Variant]:
    forward, backward = autograd.LAUNCH["forward"], autograd.LAUNCH["backward"]
    inputs = INPUTS._replace(**absent)
    into = INTO._replace(**absent)
    common = {"inputs": inputs, "rows_total": "i32"}
    results = {"first": "*bf16", "second": "*bf16", "tile": row_tile(512, forward.rows)}
    gradients = {"grad_first": "*bf16", "grad_second": "*bf16", "into": into}
    gradients |= {"tile": row_tile(512, backward.rows)}
    return [
        Variant(
            f"lanes_forward{name}", autograd.lanes_forward, common | results, {}, forward.warps
        ),
        Variant(
            f"lanes_backward{name}", autograd.lanes_backward, common | gradients, {}, backward.warps
        ),
    ]


VARIANTS = [
    *variants("", NO_SKIP),
    *variants(" with skip", NO_GATE),
    *variants(" with skip gate", {}),
]
