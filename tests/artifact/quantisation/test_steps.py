"""The grid that the loss chooses: what each weight adds, codes inside their bits, the rate."""

import pytest
import torch

from artifact.grid import coarse, nearest
from artifact.quantisation.gptq import factor_in_order
from artifact.quantisation.recipe import Recipe, quantise
from artifact.quantisation.steps import HEADROOM, MOST_RATIO, ROWS, Steps, scale_of

BITS, DAMPING = 8, 0.01


def bank(rows: int = 24, cols: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, Hessians of inputs of very different sizes, and sensitivities as different."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(2, 1, cols, generator=generator).mul(0.7).exp()
    inputs = torch.randn(2, 400, cols, generator=generator) * sizes
    sensitivity = torch.randn(2, rows, generator=generator).mul(2).exp()
    return torch.randn(2, rows, cols, generator=generator), inputs.mT @ inputs, sensitivity


def test_each_weight_adds_the_same_to_the_loss() -> None:
    weight, hessian, sensitivity = bank()
    steps = Steps.of(weight, hessian, sensitivity, BITS, DAMPING)
    found = steps.at(1e9 * scale_of([steps], 4.0)).float()  # so coarse that no code is bounded
    assert (found == coarse(torch.tensor(1e9))).all()
    found = steps.at(scale := 4 * scale_of([steps], 4.0)).float()
    order, root = factor_in_order(hessian, DAMPING)
    variance = root.diagonal(dim1=-2, dim2=-1).square().gather(-1, order.argsort(-1))
    grid = found[..., None] * steps.columns[:, None]
    loss = grid.square() * sensitivity[..., None] * variance[:, None] / scale**2
    inside = (steps.columns > 1.3 / MOST_RATIO) & (steps.columns < MOST_RATIO / 1.3)
    free = (steps.least < scale * steps.rows / 1.3)[..., None] & inside[:, None]
    assert free.float().mean() > 0.7
    # Two bits of mantissa are an eighth off at most, in the step and in the factor.
    assert (loss[free].log() - loss[free].log().mean()).abs().max() < 4.5 * 0.125
    shuffled = sensitivity.flip(-1)
    other = Steps.of(weight, hessian, shuffled, BITS, DAMPING)
    torch.testing.assert_close(other.rows, steps.rows.flip(-1))


@pytest.mark.parametrize("bits", [4, 8])
def test_no_code_overflows_before_its_corrections(bits: int) -> None:
    weight, hessian, sensitivity = bank()
    weight[0, 0, 0] = 30.0
    steps = Steps.of(weight, hessian, sensitivity, bits, DAMPING)
    codes = (weight / (steps.at(0.0).float()[..., None] * steps.columns[:, None])).abs()
    top = 2 ** (bits - 1) - 1
    assert codes.max() <= top and codes.max() > top / HEADROOM / 1.3


@pytest.mark.parametrize("rate", [2.0, 4.0])
def test_codes_of_normal_weights_take_the_rate(rate: float) -> None:
    weight, hessian, sensitivity = bank(cols=400)
    steps = Steps.of(weight, hessian, sensitivity, BITS, DAMPING)
    rows = steps.at(scale_of([steps], rate))
    codes = nearest(weight / steps.columns[:, None], rows, BITS).float()
    bits = 0.0
    for row in codes.flatten(0, 1):
        share = row.unique(return_counts=True)[1] / len(row)
        bits -= (share * share.log2()).sum().item()
    # 400 codes of a row show somewhat less than their distribution has.
    assert bits / 48 == pytest.approx(rate, abs=0.3)
    assert scale_of([steps, steps], rate) == scale_of([steps], rate)


def test_weights_and_rows_of_zeros_have_steps() -> None:
    weight, hessian, sensitivity = bank()
    weight[0], sensitivity[1], hessian[0, 3], hessian[0, :, 3] = 0, 0, 0, 0
    steps = Steps.of(weight, hessian, sensitivity, BITS, DAMPING)
    for scale in (0.0, scale_of([steps], 4.0), 1e30):
        found = steps.at(scale)
        assert torch.isfinite(found).all() and (found > 0).all()


def test_a_coarse_number_has_two_bits_of_mantissa_and_is_near() -> None:
    numbers = torch.logspace(-4, 4, 999)
    found = coarse(numbers)
    assert (found.view(torch.int16) & 0xFF == 0).all()
    assert (found.float() / numbers - 1).abs().max() <= 0.126


def test_a_matrix_too_small_to_code_is_stored_as_it_is() -> None:
    """A head of few tokens has a Hessian, too: preset frontier-sprint with a small vocabulary."""
    weight, hessian, sensitivity = bank()
    names = {"large": "mlp", "tok_emb": "small"}
    weights = {"large": weight, "tok_emb": weight[0]}
    known = {"large": hessian, "tok_emb": hessian[:1]}
    known |= {f"large{ROWS}": sensitivity, f"tok_emb{ROWS}": sensitivity[:1]}
    stored = quantise(weights, names, Recipe(rate=2.0), known)
    assert stored["tok_emb"].kind == "fp16"
    assert set(stored) == {*quantise({"large": weight}, names, Recipe(rate=2.0), known), "tok_emb"}
