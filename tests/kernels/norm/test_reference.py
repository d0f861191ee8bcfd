"""norm and mix_norm: U-net skip, mix with the embedded input, RMSNorm and its scale."""

import pytest
import torch
from torch import Tensor

from kernels import operations
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import check, random_tensors

ops = operations("reference")
WIDE = (2, 7, 12)
ENTRY = {"stream": WIDE, "x0": WIDE, "mix": (2, 12)}
SKIP = {"skip": WIDE, "skip_weight": (12,)}
GATE = {"gate_weight": (3, 5)}
scales = pytest.mark.parametrize(("scale", "eps"), [(1.0, 1e-6), (3**-0.5, 0.1)])


def plain_mix_norm(
    stream: Tensor, x0: Tensor, mix: Tensor, scale: float, eps: float, **given: Tensor
) -> list[Tensor]:
    mixed = stream + given["skip_weight"] * given["skip"] if "skip" in given else stream
    mixed = mix[0] * mixed + mix[1] * x0
    normed, gate = scale * oracle.rms_normed(mixed, eps), []
    if "gate_weight" in given:
        gate = [torch.einsum("btj,hj->bth", normed[..., :5], given["gate_weight"])]
    return [mixed, normed, stream, x0, *gate]


@scales
def test_norm_and_its_gradients(scale: float, eps: float) -> None:
    check(
        lambda x: ops.norm(x, scale=scale, eps=eps),
        lambda x: (x, scale * oracle.rms_normed(x, eps)),
        random_tensors(1, x=WIDE),
    )


@scales
@pytest.mark.parametrize(
    "given", [{}, SKIP, GATE, SKIP | GATE], ids=["", "skip", "gate", "skip and gate"]
)
def test_mix_norm_and_its_gradients(given: dict, scale: float, eps: float) -> None:
    check(
        lambda **inputs: [
            output for output in ops.mix_norm(**inputs, scale=scale, eps=eps) if output is not None
        ],
        lambda **inputs: plain_mix_norm(**inputs, scale=scale, eps=eps),
        random_tensors(1, **ENTRY, **given),
    )


def test_the_skip_enters_before_the_mix() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    mixed, _, stream, x0, gate = ops.mix_norm(
        one,
        1000 * one,
        torch.tensor([[5.0], [7.0]]),
        scale=1.0,
        eps=1e-6,
        skip=100 * one,
        skip_weight=torch.tensor([3.0]),
    )
    assert mixed.item() == 5 * (1 + 3 * 100) + 7 * 1000
    assert (stream.item(), x0.item(), gate) == (1, 1000, None)


def test_outputs_stay_in_the_activations_dtype_with_fp32_vectors() -> None:
    wide, vector = torch.ones(WIDE, dtype=torch.bfloat16), torch.ones(12)
    *outputs, gate = ops.mix_norm(
        wide,
        wide,
        torch.ones(2, 12),
        scale=0.5,
        eps=1e-6,
        skip=wide,
        skip_weight=vector,
        gate_weight=torch.ones(3, 5),
    )
    outputs += [*ops.norm(wide, scale=0.5, eps=1e-6), gate]
    assert [output.dtype for output in outputs if output is not None] == [torch.bfloat16] * 7
