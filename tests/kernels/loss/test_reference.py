"""loss: softcap, cross-entropy, MTP heads with their targets and weight, target weights."""

import math

import pytest
import torch
from torch import Tensor

from kernels import operations
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import FP32, check, random_tensors, relative_error

ops = operations("reference")
VOCAB, WIDTH = 11, 6


def random_targets(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, VOCAB, (2, length), generator=generator, dtype=torch.int32)


def check_loss(
    length: int = 9,
    softcap: float = 3.0,
    heads: int = 0,
    *,
    weighted: bool = False,
    further: tuple[float, ...] = (),
) -> None:
    """FP32 is the tolerance: logits and all that follows are fp32 whatever the hidden state is."""
    shapes: dict[str, tuple[int, ...]] = {"hidden": (2, length, WIDTH), "head": (VOCAB, WIDTH)}
    if heads:
        shapes |= {"mtp_heads": (heads, VOCAB, WIDTH), "mtp_weight": ()}
    inputs, targets = random_tensors(5, **shapes), random_targets(length)
    weights = torch.rand(VOCAB, generator=torch.Generator().manual_seed(6)) if weighted else None
    further_weights = torch.tensor(further, dtype=torch.float64)
    options = {"further_weights": further_weights} if further else {}
    check(
        lambda **given: ops.loss(
            **given, targets=targets, softcap=softcap, target_weight=weights, **options
        ),
        lambda **given: oracle.loss(
            **given,
            targets=targets,
            softcap=softcap,
            target_weight=None if weights is None else weights.double(),
            **options,
        ),
        inputs,
        FP32,
    )


@pytest.mark.parametrize("softcap", [0.5, 3.0, 30.0], ids=lambda cap: f"softcap {cap}")
def test_softcapped_cross_entropy_and_its_gradients(softcap: float) -> None:
    check_loss(softcap=softcap)


@pytest.mark.parametrize("heads", [1, 2, 3], ids=lambda heads: f"{heads} heads")
@pytest.mark.parametrize("length", [9, 4])
def test_mtp_heads_their_targets_and_gradients(heads: int, length: int) -> None:
    check_loss(length, heads=heads)


@pytest.mark.parametrize("heads", [0, 2], ids=["main head", "with MTP"])
def test_target_weight(heads: int) -> None:
    check_loss(heads=heads, weighted=True)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("further", [(0.5,), (0.5, 0.25), (0.0, 0.3)], ids=str)
def test_further_targets_of_the_main_head(further: tuple[float, ...], weighted: bool) -> None:
    check_loss(weighted=weighted, further=further)


def test_further_targets_exclude_mtp_heads() -> None:
    given = random_tensors(5, hidden=(2, 9, WIDTH), head=(VOCAB, WIDTH), further_weights=(1,))
    heads = {"mtp_heads": given["head"][None], "mtp_weight": torch.tensor(0.1)}
    with pytest.raises(ValueError, match="exclude MTP heads"):
        ops.loss(**given, **heads, targets=random_targets(9), softcap=30.0)


def test_mtp_head_k_learns_the_token_k_places_beyond_the_next() -> None:
    """Position i shows i alone; a head that names token i + 1 + k for it has no loss."""
    tokens = torch.tensor([[4, 9, 0, 7, 7, 2, 5]])
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    hidden = torch.eye(6)[None]
    sure = 20.0  # nats of a right answer: about VOCAB * e^-20

    def naming(ahead: int) -> Tensor:
        """(V, positions): position i's logit is high for token i + ahead alone."""
        head = torch.zeros(VOCAB, inputs.size(1))
        for i in range(inputs.size(1) - ahead + 1):
            head[tokens[0, i + ahead], i] = sure
        return head

    right = ops.loss(
        hidden,
        naming(1),
        targets,
        softcap=1e4,
        mtp_heads=torch.stack((naming(2), naming(3))),
        mtp_weight=torch.tensor(1.0),
    )[0]
    swapped = ops.loss(
        hidden,
        naming(1),
        targets,
        softcap=1e4,
        mtp_heads=torch.stack((naming(3), naming(2))),
        mtp_weight=torch.tensor(1.0),
    )[0]
    assert float(right) < 1e-6
    assert float(swapped) > 5


def test_mtp_weight_is_a_lever_on_the_mean_of_the_heads() -> None:
    """Heads of zeros cost ln V each, however many there are."""
    given = random_tensors(5, hidden=(2, 9, WIDTH), head=(VOCAB, WIDTH))
    hidden, head = given["hidden"].float(), given["head"].float()
    targets, heads = random_targets(9), torch.zeros(3, VOCAB, WIDTH)
    main = ops.loss(hidden, head, targets, softcap=30.0)[0]
    for weight in (0.0, 0.1, 1.0):
        lever = torch.tensor(weight)
        total = ops.loss(hidden, head, targets, softcap=30.0, mtp_heads=heads, mtp_weight=lever)[0]
        assert float(total - main) == pytest.approx(weight * math.log(VOCAB), abs=1e-6)


def test_nats_are_the_unweighted_main_heads_and_carry_no_gradient() -> None:
    given = random_tensors(
        5, hidden=(2, 9, WIDTH), head=(VOCAB, WIDTH), mtp_heads=(2, VOCAB, WIDTH)
    )
    hidden = given["hidden"].float().requires_grad_()
    head, heads = given["head"].float(), given["mtp_heads"].float()
    targets = random_targets(9)
    plain, nats = ops.loss(hidden, head, targets, softcap=30.0)
    nats_too = ops.loss(
        hidden,
        head,
        targets,
        softcap=30.0,
        mtp_heads=heads,
        mtp_weight=torch.tensor(0.5),
        target_weight=torch.arange(float(VOCAB)),
    )[1]
    assert torch.equal(nats, nats_too)
    assert not nats.requires_grad
    assert plain.item() == pytest.approx(float(nats.mean()), rel=1e-6)


def test_target_weights_count_relative_to_their_mean() -> None:
    given = random_tensors(5, hidden=(2, 9, WIDTH), head=(VOCAB, WIDTH))
    hidden, head, targets = given["hidden"].float(), given["head"].float(), random_targets(9)
    weights = torch.rand(VOCAB, generator=torch.Generator().manual_seed(6)) + 0.1

    def total(target_weight: Tensor | None) -> float:
        return float(ops.loss(hidden, head, targets, softcap=30.0, target_weight=target_weight)[0])

    assert total(7 * weights) == pytest.approx(total(weights), rel=1e-6)
    assert total(torch.full((VOCAB,), 0.3)) == pytest.approx(total(None), rel=1e-6)
    assert abs(total(weights) - total(None)) > 1e-3


def test_softcap_bounds_every_logit_so_that_huge_states_cost_at_most_twice_the_cap() -> None:
    hidden, head = torch.full((1, 1, 1), 1e6), torch.tensor([[1.0], [-1.0]])
    loss, _ = ops.loss(hidden, head, torch.tensor([[1]]), softcap=30.0)
    assert float(loss) == pytest.approx(60.0)


def test_loss_is_fp32_of_bf16_states() -> None:
    given = random_tensors(5, hidden=(2, 9, WIDTH), head=(VOCAB, WIDTH))
    hidden, head, targets = given["hidden"].bfloat16(), given["head"].bfloat16(), random_targets(9)
    loss, nats = ops.loss(hidden, head, targets, softcap=30.0)
    exact = oracle.nats(hidden.double(), head.double(), targets, 30.0)
    assert (loss.dtype, nats.dtype) == (torch.float32, torch.float32)
    # Logits are products in bf16, each rounded to 2^-9 of itself.
    assert relative_error(nats, exact) < 2**-8
