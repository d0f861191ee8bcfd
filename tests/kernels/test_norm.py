"""norm: residual, U-net skip, mix with the embedded input, RMSNorm and its scale."""

import pytest
import torch
from torch import Tensor

from kernels import operations
from tests.kernels import oracle
from tests.kernels.compare import check, random_tensors

ops = operations("reference")
WIDE = (2, 7, 12)
PARTS: dict[str, dict[str, tuple[int, ...]]] = {
    "branch": {"branch": WIDE, "branch_scale": (12,)},
    "skip": {"skip": WIDE, "skip_weight": (12,)},
    "mix": {"x0": WIDE, "mix": (2, 12)},
}


def plain_norm(
    x: Tensor, scale: float, eps: float, **given: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    stream = x + given["branch_scale"] * given["branch"] if "branch" in given else x
    mixed = stream
    if "skip" in given:
        mixed = mixed + given["skip_weight"] * given["skip"]
    if "mix" in given:
        mixed = given["mix"][0] * mixed + given["mix"][1] * given["x0"]
    return stream, mixed, scale * oracle.rms_normed(mixed, eps)


@pytest.mark.parametrize(
    "parts",
    [(), ("branch",), ("mix",), ("branch", "mix"), ("skip", "mix"), ("branch", "skip", "mix")],
    ids=lambda parts: "+".join(("x", *parts)),
)
@pytest.mark.parametrize(("scale", "eps"), [(1.0, 1e-6), (3**-0.5, 0.1)])
def test_norm_and_its_gradients(parts: tuple[str, ...], scale: float, eps: float) -> None:
    shapes = {"x": WIDE}
    for part in parts:
        shapes |= PARTS[part]
    check(
        lambda **inputs: ops.norm(**inputs, scale=scale, eps=eps),
        lambda **inputs: plain_norm(**inputs, scale=scale, eps=eps),
        random_tensors(1, **shapes),
    )


def test_norm_takes_the_skip_in_before_the_mix_and_the_branch_before_both() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    stream, mixed, _ = ops.norm(
        one,
        scale=1.0,
        eps=1e-6,
        branch=10 * one,
        branch_scale=torch.tensor([2.0]),
        skip=100 * one,
        skip_weight=torch.tensor([3.0]),
        x0=1000 * one,
        mix=torch.tensor([[5.0], [7.0]]),
    )
    assert stream.item() == 1 + 2 * 10
    assert mixed.item() == 5 * (21 + 3 * 100) + 7 * 1000


def test_norm_stays_in_the_activations_dtype_with_fp32_vectors() -> None:
    wide = torch.ones(WIDE, dtype=torch.bfloat16)
    outputs = ops.norm(
        wide,
        scale=0.5,
        eps=1e-6,
        branch=wide,
        branch_scale=torch.ones(12),
        skip=wide,
        skip_weight=torch.ones(12),
        x0=wide,
        mix=torch.ones(2, 12),
    )
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 3
