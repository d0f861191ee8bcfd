"""Attention of chunks of documents: the reference against a mask that is made here, position by
position, and the kernels against the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.harness.operation import PooledErrors
from kernels.attention import CachedAttention, Kept, reference
from kernels.attention.autograd import cached_attention
from kernels.attention.reference import over_kept, rope_at
from tests.kernels.tools.compare import FP32, random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, SHARE_OF_BF16, cast, poisoned, results

ROUNDING, EPS, BASE = 2.0**-9, 1e-3, 100.0
# Documents, tokens of the chunk, H, G, D, places of the ring, first position, positions seen.
CASES = {
    "first chunk": (2, 32, 4, 2, 64, 160, 0, 96),
    "second": (2, 32, 4, 2, 64, 160, 32, 96),
    "past the window, ring around": (3, 24, 4, 2, 32, 160, 300, 96),
    "window shorter than the chunk": (1, 48, 2, 1, 32, 160, 97, 20),
    "no groups, odd chunk": (2, 33, 3, 3, 64, 288, 257, 255),
    "head dim 128": (2, 40, 4, 2, 128, 200, 170, 160),
    "two positions": (2, 40, 4, 2, 32, 200, 170, 2),
    "real size": (2, 128, 8, 4, 64, 2176, 5000, 2048),
}
Case = tuple[int, ...]


def inputs_of(case: Case, seed: int, gated: bool = True) -> dict[str, Tensor]:
    N, S, H, G, D, R, *_ = case
    shapes: dict[str, tuple[int, ...]] = {
        "q": (N, S, H, D),
        "k": (N, S, G, D),
        "v": (N, S, G, D),
        "gain": (H,),
        "cache": (2, N + 1, R, G, D),
    }
    drawn = random_tensors(seed, **shapes, **({"gate": (N, S, H)} if gated else {}))
    return drawn | {"cache": F.rms_norm(drawn["cache"], (D,))}


def bounds_of(case: Case) -> Tensor:
    N, S, *_, place, reach = case
    own = torch.arange(S)
    start, stop = (place + own - (reach - 1)).clamp_min(0) - place, (own + reach).clamp_max(S)
    return torch.stack((start, stop)).int()[:, None].expand(2, N, S).contiguous().to(DEVICE)


def kept_of(case: Case, cache: Tensor) -> Kept:
    """Places that hold none of the seen positions are NaN."""
    N, R, place, reach = case[0], *case[5:]
    held = [p % R for p in range(max(0, place - reach + 1), place)]
    cache = cache.clone()
    cache[:, :, [p for p in range(R) if p not in held]] = torch.nan
    return Kept(cache[:, :N, : R if place else 0], torch.tensor(place, device=DEVICE))


def found(
    operation: CachedAttention, case: Case, inputs: dict[str, Tensor], xsa: bool, real: bool = True
) -> dict[str, Tensor]:
    """Results, and gradients of the first; the cache is overwritten where the chunk goes."""
    _, S, *_, R, place, _ = case
    given = dict(inputs)
    kept = kept_of(case, given.pop("cache"))
    if not real:
        kept = kept._replace(cache=kept.cache.nan_to_num())
    rope = rope_at(place + torch.arange(S, device=DEVICE), 16, BASE)

    def once(**each: Tensor) -> list[Tensor]:
        given = each | {"rope": rope, "kept": kept, "documents": bounds_of(case)}
        y, key = operation(**given, eps=EPS, xsa=xsa)  # pyright: ignore[reportArgumentType]
        assert not key.requires_grad
        if place:
            kept.cache.index_fill_(2, (place + torch.arange(S, device=DEVICE)) % R, torch.nan)
        return [y, key]

    with poisoned():
        found = results(once, given, seed=3, used=[0])
    assert "gradient of gain" not in found
    return found


def exact(case: Case, inputs: dict[str, Tensor], xsa: bool) -> dict[str, Tensor]:
    wide = {name: tensor.double() for name, tensor in inputs.items()}
    return found(reference.cached_attention, case, wide, xsa, real=False)


def position_by_position(case: Case, q: Tensor, k: Tensor, v: Tensor, cache: Tensor) -> Tensor:
    """Each position's own softmax over the positions that it sees."""
    N, S, H, G, _, R, place, reach = case
    rows = []
    for token in range(S):
        position = place + token
        seen = range(max(0, position - reach + 1), position + 1)
        kept = [p % R for p in seen if p < place]
        own = [p - place for p in seen if p >= place]
        keys, values = (
            torch.cat((old[:N, kept], new[:, own]), 1).repeat_interleave(H // G, 2)
            for old, new in zip(cache, (k, v), strict=True)
        )
        scores = torch.einsum("nhd,nthd->nht", q[:, token], keys) / q.size(-1) ** 0.5
        rows.append(torch.einsum("nht,nthd->nhd", scores.softmax(-1), values))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("name", [name for name in CASES if name != "real size"])
def test_the_reference_is_the_definition(name: str) -> None:
    case = CASES[name]
    drawn = {n: x.double().to(DEVICE) for n, x in inputs_of(case, 1).items() if n not in ("gain",)}
    drawn.pop("gate")
    cache = drawn.pop("cache")
    kept = kept_of(case, cache)
    kept = kept._replace(cache=kept.cache.nan_to_num())

    def ours(**given: Tensor) -> list[Tensor]:
        return [over_kept(**given, documents=bounds_of(case), kept=kept)]

    expected = results(lambda **given: [position_by_position(case, **given, cache=cache)], drawn, 3)
    for name, tensor in results(ours, drawn, 3).items():
        assert relative_error(tensor, expected[name]) < 1e-11, name


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("seed", "xsa", "gated"), [(1, False, False), (2, True, True)])
def test_fp32_is_the_reference(name: str, seed: int, xsa: bool, gated: bool) -> None:
    case = CASES[name]
    inputs = cast(inputs_of(case, seed, gated), torch.float32)
    expected = exact(case, inputs, xsa)
    for name, tensor in found(cached_attention, case, inputs, xsa).items():
        assert relative_error(tensor, expected[name]) < FP32, name


@pytest.mark.parametrize("xsa", [False, True])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_shut_gate_gives_zeros(xsa: bool) -> None:
    """Its share is zero in fp32, and delta divides by it."""
    case = CASES["second"]
    inputs = cast(inputs_of(case, 1), torch.float32)
    inputs["gate"][:, 3:9], inputs["gate"][:, 9:12] = -300.0, -60.0
    expected, got = exact(case, inputs, xsa), found(cached_attention, case, inputs, xsa)
    assert not got["gradient of q"][:, 3:9].any()
    for name, tensor in got.items():
        assert relative_error(tensor, expected[name]) < FP32, name


class Created(TorchDispatchMode):
    """The names of all operations that make zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if "zeros" in str(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["first chunk", "second"])
def test_no_zeros_are_made_for_the_gradient_that_keys_do_not_have(name: str) -> None:
    case = CASES[name]
    given = cast(inputs_of(case, 1, gated=False), torch.float32)
    kept, q = kept_of(case, given.pop("cache")), given["q"].requires_grad_()
    rope = rope_at(case[6] + torch.arange(case[1], device=DEVICE), 16, BASE)
    given |= {"rope": rope, "documents": bounds_of(case)}
    y, _ = cached_attention(**given, kept=kept, eps=EPS)  # pyright: ignore[reportArgumentType]
    with Created() as created:
        torch.autograd.grad(y, q, torch.ones_like(y))
    assert created.names == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("xsa", [False, True])
def test_bf16_is_as_near_as_pytorchs(name: str, xsa: bool) -> None:
    """Errors are pooled over draws, because one draw's error may be luck."""
    case, ours, theirs = CASES[name], PooledErrors(), PooledErrors()
    expected: dict[str, Tensor] = {}
    for seed in range(1, 13):
        inputs = cast(inputs_of(case, seed), torch.bfloat16, ("gain",))
        expected = exact(case, inputs, xsa)
        ours.add(found(cached_attention, case, inputs, xsa), expected)
        theirs.add(found(reference.cached_attention, case, inputs, xsa, real=False), expected)
    for name in expected:
        assert ours[name] < SHARE_OF_BF16 * max(theirs[name], ROUNDING), name


@pytest.mark.gpu
@pytest.mark.parametrize("documents", [1, 2, 64])
def test_equal_launches_give_equal_bits(documents: int) -> None:
    """PyTorch's fused kernels add the gradient of few documents' queries up in any order."""
    case = (documents, *CASES["real size"][1:])
    inputs = cast(inputs_of(case, 1), torch.bfloat16, ("gain",))
    make: Callable[[], dict[str, Tensor]] = lambda: found(cached_attention, case, inputs, True)  # noqa: E731
    first = make()
    for _ in range(50):
        again = make()
        assert [name for name in first if not torch.equal(first[name], again[name])] == []
