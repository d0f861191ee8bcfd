"""The grid against its definition, one row at a time, and against the grid that QAT fakes."""

import pytest
import torch

from artifact.grid import dequantise, nearest, row_steps
from kernels.quant.reference import quant


def heavy_tailed(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator)
    return 0.1 * normal * (1 + 40 * (torch.rand(shape, generator=generator) > 0.998))


@pytest.mark.parametrize("min_step", [0.0, 1 / 31])
def test_without_a_clip_it_is_the_grid_that_training_fakes(min_step: float) -> None:
    """Up to the step's rounding to fp16, 2^-11 of it and so 2^-11 of a weight, and to the codes
    that this takes over the middle between two."""
    weight = heavy_tailed(3, 16, 96)
    step = row_steps(weight, 6, min_step=min_step)
    ours = dequantise(nearest(weight, step, 6), step)
    faked = quant(weight, torch.float32, torch.tensor(1.0), min_step).values
    near = (ours - faked).abs() <= faked.abs() * 2**-10
    assert near.float().mean() > 0.99
    assert ((ours - faked).abs() <= 1.02 * step.float()[..., None]).all()
    assert row_steps(weight, 6, min_step=2 * min_step + 0.1).min() > step.min()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("clip", [3.0, 12.85])
def test_a_clip_counts_standard_deviations_of_the_row(bits: int, clip: float) -> None:
    """To half of the last of 4 bits of mantissa, 2^-5."""
    weight = heavy_tailed(2, 9, 256, seed=bits)
    steps = row_steps(weight, bits, clip)
    for row, step in zip(weight.view(-1, 256), steps.flatten().float(), strict=True):
        expected = clip * row.pow(2).mean().sqrt() / (2 ** (bits - 1) - 1)
        assert abs(step / expected - 1) <= 2**-5 + 2**-10
    assert not (steps.view(torch.int16) & 0x3F).any()


@pytest.mark.parametrize("bits", range(2, 9))
def test_error_of_an_unclipped_row_is_half_a_step(bits: int) -> None:
    """Half a step, and where fp16 rounded the step down, the 2^-11 of the largest code besides."""
    weight = heavy_tailed(64, 96)
    step = row_steps(weight, bits)
    codes = nearest(weight, step, bits)
    top = 2 ** (bits - 1) - 1
    error = (dequantise(codes, step) - weight).abs()
    assert (error <= step.float()[:, None] * max(0.5, top * 2**-11) * (1 + 1e-5)).all()
    assert codes.abs().max() == top


def test_codes_end_at_the_clip() -> None:
    codes = nearest(torch.tensor([[9.0, -9.0, 0.4]]), torch.tensor([0.5]).half(), 4)
    assert codes.tolist() == [[7, -7, 1]]


@pytest.mark.parametrize("clip", [0.0, 4.0])
def test_min_step_is_the_finest_step(clip: float) -> None:
    weight = heavy_tailed(32, 512) * torch.logspace(-2, 1, 32)[:, None]
    floor = torch.tensor(0.03125).half()
    free, bounded = row_steps(weight, 6, clip), row_steps(weight, 6, clip, min_step=0.03125)
    assert (free < floor).any() and (free > floor).any()
    assert torch.equal(bounded, free.maximum(floor))


@pytest.mark.parametrize("clip", [0.0, 6.0])
@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_rows_at_the_edges_of_fp16_stay_finite(value: float, clip: float) -> None:
    weight = torch.full((3, 8), value)
    step = row_steps(weight, 6, clip)
    assert torch.isfinite(step).all() and (step > 0).all()
    assert (nearest(weight, step, 6) == (31 if value > 1 else 0)).all()


def test_dequantise_rounds_once() -> None:
    codes = torch.tensor([[31, -3, 0]], dtype=torch.int8)
    step = torch.tensor([0.1], dtype=torch.float16)
    exact = codes.double() * step.double()[:, None]
    assert torch.equal(dequantise(codes, step), exact.float())
    assert torch.equal(dequantise(codes, step, torch.bfloat16), exact.bfloat16())


@pytest.mark.parametrize(("shape", "bits"), [((4,), 6), ((4, 4), 1), ((4, 4), 9)])
def test_refuses_what_it_cannot_code(shape: tuple[int, ...], bits: int) -> None:
    with pytest.raises(ValueError, match="cannot quantise"):
        row_steps(torch.ones(shape), bits)
