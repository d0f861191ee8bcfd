"""The gradient norm, what it decides, and what it saw of each chunk."""

import math

import pytest
import torch
from torch import Tensor

from kernels.optimizer.gradient_norm import CHUNK, GradientNorm
from tests.kernels.tools.levers import make_levers
from tests.kernels.tools.twins import DEVICE, poisoned

# One element, one short of a chunk, a chunk, one more, several.
SHAPES = [(), (CHUNK - 1,), (CHUNK,), (1, CHUNK + 1), (3, 17, 512)]


def random_gradients() -> list[Tensor]:
    """Each with NaN before and behind it, which nobody may read."""
    generator, found = torch.Generator().manual_seed(3), []
    for shape in SHAPES:
        count = math.prod(shape)
        around = torch.full((count + 8,), math.nan, device=DEVICE)
        gradient = around[4 : count + 4].view(shape)
        found.append(gradient.copy_(torch.randn(shape, generator=generator)))
    return found


def norm_of(gradients: list[Tensor | None]) -> GradientNorm:
    with poisoned():
        norm = GradientNorm([torch.zeros(shape, device=DEVICE) for shape in SHAPES])
    norm.gradients.update(gradients)
    return norm


def measured(norm: GradientNorm, **levers: float) -> float:
    norm(make_levers(**levers))
    return float(norm.decision[0])


def exact_norm(gradients: list[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def test_norm_is_over_all_gradients_wherever_they_lie():
    gradients = random_gradients()
    for place in (1, 4):  # no longer at a multiple of 16 bytes
        moved = torch.zeros(gradients[place].numel() + 1, device=DEVICE)[1:]
        gradients[place] = moved.view(SHAPES[place]).copy_(gradients[place])
    norm = norm_of([*gradients])
    assert measured(norm) == pytest.approx(exact_norm(gradients), rel=1e-6)
    norm.gradients.update(others := [2 * gradient for gradient in gradients])
    assert measured(norm) == pytest.approx(exact_norm(others), rel=1e-6)


def test_a_missing_gradient_counts_as_none():
    gradients = random_gradients()
    norm = norm_of([*gradients[:3], None, gradients[4]])
    expected = exact_norm([*gradients[:3], gradients[4]])
    assert measured(norm) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.3, 1e6], ids=["none", "active", "inactive"])
def test_coefficient_brings_the_norm_under_the_clip(clip: float):
    gradients = random_gradients()
    norm = norm_of([*gradients])
    measured(norm, clip=clip)
    expected = min(1.0, clip / (exact_norm(gradients) + 1e-6)) if clip else 1.0
    assert norm.decision.tolist()[1:] == [pytest.approx(expected, rel=1e-6), 1.0]
    assert norm.counts.tolist() == [1, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_skips_the_step(wrong: float):
    gradients = random_gradients()
    norm = norm_of([*gradients])
    measured(norm)
    gradients[4][2, 3, 4] = gradients[1][CHUNK - 2] = wrong
    measured(norm)
    assert float(norm.decision[2]) == 0.0
    assert norm.counts.tolist() == [1, 1]


def test_a_norm_above_its_lever_skips_the_step():
    norm = norm_of([*(gradients := random_gradients())])
    exact = exact_norm(gradients)
    for share, counts in ((1.01, [1, 0]), (0.99, [1, 1]), (0.0, [1, 2]), (math.inf, [2, 2])):
        measured(norm, skip_norm=share * exact)
        assert norm.counts.tolist() == counts


def test_statistics_are_of_each_chunk():
    gradients = random_gradients()
    gradients[3][0, CHUNK] = math.inf
    gradients[4][2, 3, 4] = math.nan
    norm = norm_of([*gradients])
    measured(norm)
    chunks = [chunk for gradient in gradients for chunk in gradient.flatten().split(CHUNK)]
    assert [len(norm.chunks_of(range(i, i + 1))) for i in range(5)] == [1, 1, 1, 2, 2]
    assert len(norm.statistics) == len(chunks) == 7
    for (squares, largest, wrong), chunk in zip(norm.statistics.tolist(), chunks, strict=True):
        finite = chunk[chunk.isfinite()]
        assert wrong == len(chunk) - len(finite)
        assert largest == pytest.approx(float(finite.abs().max()) if len(finite) else 0.0)
        if not wrong:
            assert squares == pytest.approx(float(chunk.double().square().sum()), rel=1e-6)


@pytest.mark.gpu
def test_the_same_bits_every_time():
    gradients = [torch.randn(2_000_003, device=DEVICE), torch.randn(22, 512, 512, device=DEVICE)]
    norm = GradientNorm(gradients)
    norm.gradients.update(gradients)
    assert len({measured(norm) for _ in range(20)}) == 1
