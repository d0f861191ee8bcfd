"""The loss's Triton kernels: against the reference in fp32 anywhere, in bf16 on a GPU."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common.launch import Launch
from kernels.loss import autograd as kernel
from kernels.loss import chunks as loss_chunks
from kernels.loss import reference
from tests.kernels.tools.compare import FP32, random_tensors, relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UPSTREAM = 1.7
WIDTH = 16


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what is allocated with NaN, so that an output left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(
    seed: int, batch: tuple[int, int], vocabulary: int, *, heads: int = 0, width: int = WIDTH
) -> dict[str, Tensor]:
    """Tensors that want a gradient; the logits' spread is about 1."""
    shapes: dict[str, tuple[int, ...]] = {"hidden": (*batch, width), "head": (vocabulary, width)}
    if heads:
        shapes |= {"mtp_heads": (heads, vocabulary, width), "mtp_weight": ()}
    given = random_tensors(seed, **shapes)
    for name in given.keys() & {"head", "mtp_heads"}:
        given[name] /= width**0.5
    return {name: tensor.to(DEVICE) for name, tensor in given.items()}


def targets_of(seed: int, batch: tuple[int, int], vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, batch, generator=generator, dtype=torch.int32).to(DEVICE)


def weights_of(seed: int, vocabulary: int) -> Tensor:
    return torch.rand(vocabulary, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def run(
    operation: Callable[..., tuple[Tensor, Tensor]],
    given: dict[str, Tensor],
    dtype: torch.dtype,
    *,
    upstream: float = UPSTREAM,
    **constants: Any,
) -> dict[str, Tensor]:
    """Loss, nats and all gradients of the operation in ``dtype``; levers are fp32 at least."""
    lever = torch.promote_types(dtype, torch.float32)
    leaves = {
        name: tensor.detach().to(dtype if tensor.dim() else lever).requires_grad_()
        for name, tensor in given.items()
    }
    total, nats = operation(**leaves, **constants)
    assert not nats.requires_grad
    gradients = torch.autograd.grad(upstream * total, list(leaves.values()))
    named = dict(zip(leaves, gradients, strict=True))
    return {"loss": total.detach(), "nats": nats, **named}


def agree(given: dict[str, Tensor], **constants: Any) -> None:
    ours = run(kernel.loss, given, torch.float32, **constants)
    exact = run(reference.loss, given, torch.float64, **constants)
    for name in exact:
        assert ours[name].dtype == torch.float32
        assert relative_error(ours[name], exact[name]) < FP32, name


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("batch", "vocabulary", "heads"),
    [
        ((2, 9), 1024, 0),
        ((2, 9), 48, 2),
        ((3, 7), 11, 1),
        ((1, 1), 16, 0),
        ((5, 1), 1040, 0),
        ((2, 4), 300, 3),
    ],
    ids=[
        "a warp a row",
        "less than a warp a row, MTP",
        "odd vocabulary",
        "one token",
        "T=1, two warps a row",
        "MTP heads up to T - 1, columns end inside a chunk",
    ],
)
def test_agrees_with_the_reference(
    seed: int, batch: tuple[int, int], vocabulary: int, heads: int
) -> None:
    given, targets = (
        inputs(seed, batch, vocabulary, heads=heads),
        targets_of(seed, batch, vocabulary),
    )
    agree(given, targets=targets, softcap=3.0)
    agree(given, targets=targets, softcap=30.0, target_weight=weights_of(seed, vocabulary))


@pytest.mark.parametrize(
    ("batch", "vocabulary", "further"),
    [((2, 9), 48, (0.5,)), ((3, 7), 11, (0.5, 0.25)), ((2, 3), 1040, (0.0, 0.3))],
    ids=["one", "two, odd vocabulary, equal targets", "two, two warps a row, weight zero"],
)
def test_further_targets_agree_with_the_reference(
    batch: tuple[int, int], vocabulary: int, further: tuple[float, ...]
) -> None:
    given, targets = inputs(18, batch, vocabulary), targets_of(18, batch, vocabulary)
    targets[:, 1] = targets[:, 0]
    weights = torch.tensor(further, device=DEVICE)
    agree(given, targets=targets, softcap=3.0, further_weights=weights)
    by_token = weights_of(18, vocabulary)
    agree(given, targets=targets, softcap=100.0, target_weight=by_token, further_weights=weights)


def test_further_targets_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose bounds cut windows; dheads in one sum a chunk."""
    monkeypatch.setattr(loss_chunks, "CHUNK_LOGITS", 24 * 128)
    monkeypatch.setattr(loss_chunks, "WHOLE_WAVE", 24 * WIDTH)
    monkeypatch.setattr("kernels.loss.cross_entropy.LAUNCH", Launch(programs=50))
    given, targets = inputs(19, (3, 50), 24), targets_of(19, (3, 50), 24)
    weights = torch.tensor([0.5, 0.25], device=DEVICE)
    agree(given, targets=targets, softcap=3.0, further_weights=weights)


def test_many_chunks_and_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks of rows, of two blocks and one, whose bounds cut windows; five sums of nats."""
    monkeypatch.setattr(loss_chunks, "CHUNK_LOGITS", 256 * 72)
    monkeypatch.setattr(loss_chunks, "BLOCK_LOGITS", 1)
    monkeypatch.setattr(kernel, "POSITIONS", 64)
    batch, vocabulary = (3, 100), 24
    given, targets = inputs(3, batch, vocabulary, heads=2), targets_of(3, batch, vocabulary)
    agree(given, targets=targets, softcap=3.0, target_weight=weights_of(3, vocabulary))


def test_int64_strided_targets_and_states() -> None:
    given, targets = inputs(4, (2, 9), 24, heads=2), targets_of(4, (2, 9), 24)
    given["hidden"] = given["hidden"].transpose(0, 1).contiguous().transpose(0, 1)
    agree(given, targets=targets.long().T.contiguous().T, softcap=3.0)


def test_huge_and_equal_logits() -> None:
    """Saturated softcaps: exponents in range, the loss at most twice the cap, gradients finite."""
    given, targets = inputs(5, (1, 8), 24), targets_of(5, (1, 8), 24)
    given["hidden"] *= 1e4
    ours = run(kernel.loss, given, torch.float32, targets=targets, softcap=30.0)
    exact = run(reference.loss, given, torch.float64, targets=targets, softcap=30.0)
    assert relative_error(ours["nats"], exact["nats"]) < FP32
    assert all(tensor.isfinite().all() for tensor in ours.values())
    given["hidden"] *= 0
    ours = run(kernel.loss, given, torch.float32, targets=targets, softcap=30.0)
    assert ours["nats"].flatten().tolist() == pytest.approx([float(torch.tensor(24.0).log())] * 8)


@pytest.mark.parametrize("softcap", [64.0, 150.0], ids=["greatest bound", "beyond"])
@pytest.mark.parametrize("offset", [-2.0, 2.0])
def test_softcaps_that_leave_exponents_far_from_zero(softcap: float, offset: float) -> None:
    """All logits of a row near either end of the softcap: their sum is in fp32's range."""
    given, targets = inputs(14, (1, 8), 24), targets_of(14, (1, 8), 24)
    shift = offset * softcap / WIDTH
    given = {"hidden": given["hidden"] * 0 + 1, "head": given["head"] + shift}
    agree(given, targets=targets, softcap=softcap)


def test_more_rows_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.loss.cross_entropy.LAUNCH", Launch(programs=12))
    given, targets = inputs(15, (3, 7), 24, heads=2), targets_of(15, (3, 7), 24)
    agree(given, targets=targets, softcap=3.0)


def test_mtp_weight_is_read_from_the_device_at_each_call() -> None:
    given, targets = inputs(6, (2, 9), 24, heads=2), targets_of(6, (2, 9), 24)
    for value in (0.0, 0.4):
        given["mtp_weight"].fill_(value)
        agree(given, targets=targets, softcap=3.0)


def test_scores_the_same_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """And multiplies once, for the logits, although the leaves want gradients."""
    given, targets = inputs(7, (2, 9), 24, heads=1), targets_of(7, (2, 9), 24)
    expected = run(kernel.loss, given, torch.float32, targets=targets, softcap=3.0)
    leaves = {name: tensor.float().requires_grad_() for name, tensor in given.items()}
    products, multiply = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(a) or multiply(*a, **k))
    with torch.no_grad():
        total, nats = kernel.loss(**leaves, targets=targets, softcap=3.0)
    assert len(products) == 1
    assert torch.equal(nats, expected["nats"])
    assert torch.equal(total, expected["loss"])


@pytest.mark.parametrize("wanted", ["hidden", "head", "mtp_heads", "mtp_weight"])
def test_gradient_of_one_input_alone(wanted: str) -> None:
    given, targets = inputs(8, (2, 9), 24, heads=2), targets_of(8, (2, 9), 24)
    expected = run(kernel.loss, given, torch.float32, targets=targets, softcap=3.0)[wanted]
    given = {name: tensor.float() for name, tensor in given.items()}
    leaf = given[wanted].requires_grad_()
    total, _ = kernel.loss(**given, targets=targets, softcap=3.0)
    assert torch.equal(torch.autograd.grad(UPSTREAM * total, leaf)[0], expected)


@pytest.mark.parametrize("upstreams", [(1.0, 1.0), (0.5, 3.0), (0.0, 1.0)])
def test_a_backward_may_be_run_again(upstreams: tuple[float, float]) -> None:
    """With another upstream gradient, and what is done to the first gradients changes nothing."""
    given, targets = inputs(9, (2, 9), 24, heads=1), targets_of(9, (2, 9), 24)
    leaves = {name: tensor.float().requires_grad_() for name, tensor in given.items()}
    total, _ = kernel.loss(**leaves, targets=targets, softcap=3.0)
    for upstream in upstreams:
        got = torch.autograd.grad(upstream * total, list(leaves.values()), retain_graph=True)
        exact = run(
            reference.loss, given, torch.float64, upstream=upstream, targets=targets, softcap=3.0
        )
        for name, gradient in zip(leaves, got, strict=True):
            assert relative_error(gradient, exact[name]) < FP32, name
            gradient.fill_(math.nan)


def test_a_backward_without_a_graph_is_refused() -> None:
    given, targets = inputs(16, (1, 9), 24), targets_of(16, (1, 9), 24)
    hidden = given["hidden"].float().requires_grad_()
    total, _ = kernel.loss(hidden, given["head"].float(), targets, softcap=3.0)
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_same_inputs_same_bits() -> None:
    given, targets = inputs(10, (3, 50), 24, heads=2), targets_of(10, (3, 50), 24)
    first, second = (
        run(kernel.loss, given, torch.float32, targets=targets, softcap=3.0) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("batch", "vocabulary", "heads", "width", "upstream"),
    [
        ((16, 2048), 1024, 2, 512, UPSTREAM),
        ((3, 333), 1000, 2, 512, UPSTREAM),
        ((1, 1), 1024, 0, 64, 0.5),
    ],
    ids=["real sizes, two chunks", "odd rows and vocabulary", "one token"],
)
def test_bf16_is_as_exact_as_pytorch(
    batch: tuple[int, int], vocabulary: int, heads: int, width: int, upstream: float
) -> None:
    """Error against fp64 at most 1.5 times that of the reference in bf16.

    One token's gradient is little but its own rounding to bf16. Its upstream gradient is what
    training has, 1 / accumulation: a power of two, which does not round it again as any other does.
    """
    given = inputs(11, batch, vocabulary, heads=heads, width=width)
    rounded = {name: t.bfloat16() if t.dim() else t.float() for name, t in given.items()}
    constants: dict[str, Any] = {"targets": targets_of(11, batch, vocabulary), "softcap": 30.0}
    constants |= {"target_weight": weights_of(11, vocabulary), "upstream": upstream}
    exact = run(reference.loss, rounded, torch.float64, **constants)
    theirs = run(reference.loss, rounded, torch.bfloat16, **constants)
    ours = run(kernel.loss, rounded, torch.bfloat16, **constants)
    for name in exact:
        # Single numbers are means: PyTorch's is right to fp32's last bits, where in ours one sign
        # of the approximate tanh's error stays.
        bar = 1.5 * relative_error(theirs[name], exact[name]) + (
            0 if exact[name].numel() > 1 else 2e-4
        )
        assert relative_error(ours[name], exact[name]) <= bar, name


@pytest.mark.gpu
@pytest.mark.parametrize("vocabulary", [8192, 1000])
def test_further_targets_in_bf16_are_as_exact_as_pytorch(vocabulary: int) -> None:
    batch = (2, 4111)
    given = inputs(20, batch, vocabulary, width=512)
    rounded = {name: tensor.bfloat16() for name, tensor in given.items()}
    constants: dict[str, Any] = {"targets": targets_of(20, batch, vocabulary), "softcap": 30.0}
    constants["targets"][:, :-1:3] = constants["targets"][:, 1::3]
    constants |= {"target_weight": weights_of(20, vocabulary), "upstream": 0.5}
    constants["further_weights"] = torch.tensor([0.5, 0.25], device=DEVICE)
    exact = run(reference.loss, rounded, torch.float64, **constants)
    theirs = run(reference.loss, rounded, torch.bfloat16, **constants)
    ours = run(kernel.loss, rounded, torch.bfloat16, **constants)
    for name in exact:
        bar = 1.5 * relative_error(theirs[name], exact[name])
        bar += 0 if exact[name].numel() > 1 else 2e-4
        assert relative_error(ours[name], exact[name]) <= bar, name


@pytest.mark.gpu
def test_memory_at_a_vocabulary_of_8192() -> None:
    """98,304 tokens with further targets: under 0.8 GiB, forward and backward."""
    hidden = torch.randn(1, 98_304, 512, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(8192, 512, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    targets, weights = targets_of(21, (1, 98_304), 8192), torch.tensor([0.5, 0.25], device=DEVICE)
    torch.use_deterministic_algorithms(False)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    total, _ = kernel.loss(hidden, head, targets, softcap=30.0, further_weights=weights)
    total.backward()
    assert torch.cuda.max_memory_allocated() - before < 0.8 * 2**30


@pytest.mark.gpu
def test_scores_in_bf16_know_no_approximation() -> None:
    """Nats without gradients are those of the rounded logits, to fp32's rounding."""
    given, targets = inputs(17, (2, 100), 1000, width=64), targets_of(17, (2, 100), 1000)
    hidden, head = given["hidden"].bfloat16(), 10 * given["head"].bfloat16()
    with torch.no_grad():
        _, nats = kernel.loss(hidden, head, targets, softcap=30.0)
    logits = torch.mm(hidden.flatten(0, 1), head.T).double()
    log_chances = (30 * torch.tanh(logits / 30)).log_softmax(1)
    exact = -log_chances.gather(1, targets.long().view(-1, 1)).view(targets.shape)
    assert relative_error(nats, exact) < 1e-5


@pytest.mark.gpu
def test_memory_above_the_inputs() -> None:
    """Real size with two MTP heads: under 0.6 GiB, forward and backward."""
    batch, dtype = (48, 2048), torch.bfloat16
    hidden = torch.randn(*batch, 512, device=DEVICE, dtype=dtype, requires_grad=True)
    head = torch.randn(1024, 512, device=DEVICE, dtype=dtype, requires_grad=True)
    mtp_heads = torch.randn(2, 1024, 512, device=DEVICE, dtype=dtype, requires_grad=True)
    targets, lever = targets_of(12, batch, 1024), torch.tensor(0.1, device=DEVICE)
    torch.use_deterministic_algorithms(False)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    total, _ = kernel.loss(
        hidden, head, targets, softcap=30.0, mtp_heads=mtp_heads, mtp_weight=lever
    )
    total.backward()
    assert torch.cuda.max_memory_allocated() - before < 0.6 * 2**30


@pytest.mark.gpu
def test_a_captured_graph_follows_the_lever() -> None:
    given = {n: t.bfloat16() for n, t in inputs(13, (4, 256), 1024, heads=2, width=64).items()}
    lever = given.pop("mtp_weight").float()
    targets = targets_of(13, (4, 256), 1024)
    hidden = given["hidden"].requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        total, _ = kernel.loss(**given, targets=targets, softcap=30.0, mtp_weight=lever)
        return total.detach(), torch.autograd.grad(total, hidden)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for value in (0.0, 0.7):
        lever.fill_(value)
        graph.replay()
        for got, expected in zip(captured, step(), strict=True):
            assert torch.equal(got, expected)
