"""What scores do to embeddings and loss: through the loss operations themselves."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.loss import Loss, autograd, reference
from training.token_weights import embedding_gain, target_weight

VOCAB, WIDTH = 24, 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = pytest.mark.parametrize(
    "loss", [reference.loss, autograd.loss], ids=["reference", "kernels"]
)


def lever(value: float) -> Tensor:
    return torch.tensor(value, device=DEVICE)


@pytest.fixture
def scores() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(VOCAB, generator=generator) * 31).round().div(31).to(DEVICE)


def batch(heads: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    given = {
        "hidden": torch.randn(3, 11, WIDTH, generator=generator),
        "head": torch.randn(VOCAB, WIDTH, generator=generator),
        "targets": torch.randint(VOCAB, (3, 11), generator=generator, dtype=torch.int32),
    }
    if heads:
        given["mtp_heads"] = torch.randn(heads, VOCAB, WIDTH, generator=generator)
        given["mtp_weight"] = torch.tensor(0.3)
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def gradients(loss: Loss, heads: int, weight: Tensor | None) -> list[Tensor]:
    """Loss and its gradients in hidden states and heads."""
    given = batch(heads)
    learned = [given[name].requires_grad_() for name in ("hidden", "head")]
    total, _ = loss(**given, softcap=30.0, target_weight=weight)
    return [total.detach(), *torch.autograd.grad(total, learned)]


def test_embedding_gain_is_one_plus_a_tenth_of_the_score() -> None:
    gain = embedding_gain(np.array([0, 0.5, 1], np.float32), 0.1)
    torch.testing.assert_close(gain, torch.tensor([1, 1.05, 1.1]))
    assert gain.dtype == torch.float32


@LOSSES
@pytest.mark.parametrize("heads", [0, 2])
def test_lever_at_zero_is_the_unweighted_loss_bit_for_bit(
    loss: Loss, heads: int, scores: Tensor
) -> None:
    weighted = gradients(loss, heads, target_weight(scores, lever(0.0)))
    plain = gradients(loss, heads, None)
    assert all(torch.equal(one, other) for one, other in zip(weighted, plain, strict=True))


@LOSSES
@pytest.mark.parametrize("kg_weight", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("heads", [0, 2])
def test_mean_weight_of_a_batch_is_one(
    loss: Loss, heads: int, kg_weight: float, scores: Tensor
) -> None:
    """Where every token costs ln V, a mean with any other weight costs something else."""
    given = batch(heads)
    given["hidden"].zero_()
    weight = target_weight(scores, lever(kg_weight))
    total, _ = loss(**given, softcap=30.0, target_weight=weight)
    assert total.item() == pytest.approx(math.log(VOCAB) * (1.3 if heads else 1), rel=1e-6)


@LOSSES
def test_a_targets_share_of_the_loss_is_one_plus_lever_times_score(
    loss: Loss, scores: Tensor
) -> None:
    given = batch(0)
    total, nats = loss(**given, softcap=30.0, target_weight=target_weight(scores, lever(0.5)))
    factors = 1 + 0.5 * scores.double()[given["targets"].long()]
    wanted = (factors / factors.mean() * nats.double()).mean()
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert total.item() != pytest.approx(nats.mean().item(), rel=1e-4)


def test_weights_never_leave_the_device() -> None:
    """A value asked for on the host would raise: the meta device holds none."""
    weight = target_weight(torch.empty(VOCAB, device="meta"), torch.empty((), device="meta"))
    assert (weight.shape, weight.dtype) == ((VOCAB,), torch.float32)


@pytest.mark.gpu
def test_a_captured_step_reads_the_lever_anew(scores: Tensor) -> None:
    weight = lever(0.5)
    target_weight(scores, weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        weights = target_weight(scores, weight)
    weight.fill_(0.1)
    graph.replay()
    assert torch.equal(weights, 1 + 0.1 * scores)
