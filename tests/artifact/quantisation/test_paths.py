"""Paths through the trellis: the least error of all, and 1 dB less than the nearest levels."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from artifact.quantisation.gptq import gptq
from artifact.trellis import levels, order_of

TOP = 1  # of 2 bits


def error_of(change: Tensor, hessian: Tensor) -> Tensor:
    return ((change @ hessian) * change).sum(-1)


def bits_of(codes: Tensor) -> float:
    share = codes.unique(return_counts=True)[1] / codes.numel()
    return -(share * share.log2()).sum().item()


def test_no_codes_have_less_error() -> None:
    """Without correlations the survivors are exact."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 40, 6, generator=generator)
    hessian = torch.diag_embed(torch.rand(2, 6, generator=generator) + 0.1)
    columns = torch.rand(2, 6, generator=generator) + 0.5
    step = torch.full((2, 40), 0.8)
    codes = gptq(weight, hessian, step, 2, 1e-6, columns, trellis=True)
    every = torch.tensor(list(itertools.product(range(-TOP, TOP + 1), repeat=6)), dtype=torch.int8)
    order = order_of(columns)
    assert codes.dtype == torch.int8 and codes.abs().max() <= TOP
    for bank in range(2):
        scale = step[0, 0] * columns[bank]
        possible = levels(every, order[bank]) * scale
        change = weight[bank][:, None] - possible
        least = error_of(change, hessian[bank]).amin(dim=-1)
        found = levels(codes[bank], order[bank]) * scale - weight[bank]
        torch.testing.assert_close(error_of(found, hessian[bank]), least, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("correlated", [False, True])
def test_errors_are_a_fifth_less_at_equal_entropy(correlated: bool) -> None:
    """150 columns are more than a block."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(1, 200, 150, generator=generator)
    mixing = torch.eye(150) + correlated * torch.randn(150, 150, generator=generator) / 30
    hessian = (mixing @ mixing.T)[None]
    step = torch.full((1, 200), 0.45)
    ours = gptq(weight, hessian, step, 8, 1e-6, trellis=True)
    plain = gptq(weight, hessian, step, 8, 1e-6)
    found, wanted = (
        error_of(values * step[..., None] - weight, hessian).sum().item() * 4 ** bits_of(codes)
        for values, codes in ((levels(ours, None), ours), (plain.float(), plain))
    )
    assert 10 * math.log10(found / wanted) < -0.75


def test_equal_inputs_have_equal_codes_and_zeros_are_no_trouble() -> None:
    weight = torch.zeros(1, 3, 200)
    weight[0, 1:] = torch.randn(200, generator=torch.Generator().manual_seed(4))
    step = torch.full((1, 3), 0.3)
    codes = gptq(weight, torch.eye(200)[None], step, 4, trellis=True)
    assert torch.equal(codes[0, 1], codes[0, 2])
    assert (levels(codes, None)[0, 0].abs() <= 1).all()


@pytest.mark.gpu
def test_a_gpu_finds_paths_as_good_as_a_cpu() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(3, 500, 300, generator=generator)
    inputs = torch.randn(3, 900, 300, generator=generator)
    hessian, step = inputs.mT @ inputs, torch.full((3, 500), 0.45)
    errors = []
    for device in ("cpu", "cuda"):
        on_device = weight.to(device), hessian.to(device), step.to(device)
        codes = gptq(*on_device, bits=8, trellis=True).cpu()
        change = levels(codes, None) * step[..., None] - weight
        errors.append(error_of(change, hessian).sum().item())
    assert errors[1] == pytest.approx(errors[0], rel=0.005)
