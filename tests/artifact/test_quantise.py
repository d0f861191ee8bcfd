"""Row-wise quantisation against its definition, one row at a time."""

import math

import pytest
import torch

from artifact.quantise import PERCENTILES, dequantise, quantise_rows


def heavy_tailed(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator)
    return 0.1 * normal * (1 + 40 * (torch.rand(shape, generator=generator) > 0.998))


def naive_row(row: torch.Tensor, bits: int, min_step: float) -> tuple[torch.Tensor, float]:
    """The codes and step of one row: try each percentile, keep the least squared error."""
    top = 2 ** (bits - 1) - 1
    best = (math.inf, torch.empty(0), 0.0)
    for percentile in PERCENTILES:
        clip = torch.quantile(row.abs(), percentile).item()
        step = torch.tensor(max(clip / top, min_step, 2**-24)).half().float()
        codes = torch.round(row / step).clamp(-top, top)
        error = ((codes * step).double() - row.double()).square().sum().item()
        if error < best[0] * (1 - 1e-6):
            best = (error, codes, step.item())
    return best[1], best[2]


@pytest.mark.parametrize("bits", [2, 6, 8])
@pytest.mark.parametrize("min_step", [0.0, 1 / 31])
def test_equals_one_row_at_a_time(bits: int, min_step: float) -> None:
    weight = heavy_tailed(2, 9, 1031, seed=bits)
    quantised = quantise_rows(weight, bits, min_step=min_step)
    for index in range(2):
        for row in range(9):
            codes, step = naive_row(weight[index, row], bits, min_step)
            assert quantised.scale[index, row].item() == step
            assert torch.equal(quantised.codes[index, row].float(), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_error_of_an_unclipped_row_is_half_a_step(bits: int) -> None:
    """Half a step, and where fp16 rounded the step down, the 2^-11 of the largest code besides."""
    top = 2 ** (bits - 1) - 1
    weight = heavy_tailed(64, 96)
    codes, scale = quantise_rows(weight, bits, percentiles=(1.0,))
    error = (dequantise(codes, scale, torch.float32) - weight).abs()
    assert (error <= scale.float()[:, None] * max(0.5, top * 2**-11) * (1 + 1e-5)).all()
    assert codes.abs().max() == top


def test_clipping_beats_the_plain_maximum_on_heavy_tails() -> None:
    weight = heavy_tailed(64, 4096)

    def error(percentiles: tuple[float, ...]) -> torch.Tensor:
        restored = dequantise(*quantise_rows(weight, 6, percentiles), torch.float32)
        return (restored - weight).square().sum(-1)

    chosen, plain = error(PERCENTILES), error((1.0,))
    assert (chosen <= plain * (1 + 1e-6)).all()
    assert chosen.mean() < 0.9 * plain.mean()


def test_min_step_is_the_finest_step() -> None:
    weight = heavy_tailed(32, 512)
    floor = torch.tensor(0.02).half()
    free, bounded = quantise_rows(weight, 6), quantise_rows(weight, 6, min_step=0.02)
    assert (free.scale < floor).any() and (free.scale > floor).any()
    assert torch.equal(bounded.scale.min(), floor)
    assert bounded.codes.abs().float().mean() < free.codes.abs().float().mean()


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_rows_at_the_edges_of_fp16_stay_finite(value: float) -> None:
    codes, scale = quantise_rows(torch.full((3, 8), value), 6)
    assert torch.isfinite(scale).all() and (scale > 0).all()
    assert (codes == (31 if value > 1 else 0)).all()


def test_one_column_and_non_contiguous() -> None:
    weight = heavy_tailed(8, 2).t()[1:, ::2]
    codes, scale = quantise_rows(weight[..., None], 8)
    torch.testing.assert_close(
        dequantise(codes, scale, torch.float32)[..., 0], weight, rtol=2**-10, atol=0
    )


def test_dequantise_rounds_once() -> None:
    codes = torch.tensor([[31, -3, 0]], dtype=torch.int8)
    scale = torch.tensor([0.1], dtype=torch.float16)
    exact = codes.double() * scale.double()[:, None]
    assert torch.equal(dequantise(codes, scale, torch.float32), exact.float())
    assert torch.equal(dequantise(codes, scale, torch.bfloat16), exact.bfloat16())


@pytest.mark.parametrize(("shape", "bits"), [((4,), 6), ((4, 4), 1), ((4, 4), 9)])
def test_refuses_what_it_cannot_code(shape: tuple[int, ...], bits: int) -> None:
    with pytest.raises(ValueError, match="cannot quantise"):
        quantise_rows(torch.ones(shape), bits)
