"""A kernel held to its reference twin: outputs and every gradient, with new memory poisoned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.kernels.tools.compare import relative_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Unit roundoffs that fp32 sums of a few hundred terms may be off by.
FP32_SUMS = 64 * 2.0**-24
# What a kernel in bf16 may be off by, in units of what PyTorch's bf16 is off by.
SHARE_OF_BF16 = 1.5
# Gradients of a single number that are compared where one is not near enough. The error of one is a
# draw: of 6 for a scale of embed, PyTorch's was between 1 and 23 % in bf16.
DRAWS = 32

Outputs = Sequence[Tensor | None]
Operation = Callable[..., Outputs]


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are full of NaN, so that what a kernel does not write is seen."""
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        settings.fill_uninitialized_memory = fill


def results(
    operation: Operation,
    inputs: Mapping[str, Tensor],
    seed: int,
    used: Sequence[int] | None = None,
    drawn_on: str = "cpu",
) -> dict[str, Tensor]:
    """Outputs, and the gradients of a random functional of those ``used`` (all by default)."""
    given = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    outputs = operation(**given)
    generator = torch.Generator(drawn_on).manual_seed(seed)
    found: dict[str, Tensor] = {}
    pairs = []
    for index, output in enumerate(outputs):
        if output is None:
            continue
        found[f"output {index}"] = output.detach()
        direction = torch.randn(output.shape, generator=generator, device=drawn_on).bfloat16()
        if used is None or index in used:
            pairs.append((output, direction.to(output.device, output.dtype)))
    grads = torch.autograd.grad(
        [output for output, _ in pairs],
        list(given.values()),
        [direction for _, direction in pairs],
        allow_unused=True,
    )
    found |= {f"gradient of {n}": g for n, g in zip(given, grads, strict=True) if g is not None}
    return found


def cast(
    inputs: Mapping[str, Tensor], dtype: torch.dtype, fp32: Sequence[str] = ()
) -> dict[str, Tensor]:
    """``inputs`` on the device in ``dtype``; those named in ``fp32`` keep that at least."""
    kept = torch.promote_types(dtype, torch.float32)
    return {n: t.to(DEVICE, kept if n in fp32 else dtype) for n, t in inputs.items()}


def check_twins(
    kernel: Operation,
    reference: Operation,
    inputs: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    fp32: Sequence[str] = (),
    seed: int = 1,
    used: Sequence[int] | None = None,
) -> None:
    """``kernel`` in ``dtype`` is near ``reference`` in fp64: in fp32 within rounding, in bf16
    within 1.5 times what the reference itself is off by in bf16."""
    rounded = cast(inputs, dtype, fp32)
    with poisoned():
        ours = results(kernel, rounded, seed, used)
    exact = results(reference, cast(rounded, torch.float64), seed, used)
    theirs = results(reference, rounded, seed, used)
    assert ours.keys() == exact.keys()
    for name, expected in exact.items():
        assert ours[name].dtype == theirs[name].dtype, name
        allowed = FP32_SUMS
        if dtype != torch.float32:
            allowed = max(allowed, SHARE_OF_BF16 * relative_error(theirs[name], expected))
        if relative_error(ours[name], expected) > allowed:
            assert dtype != torch.float32 and expected.numel() == 1, name
            assert_near_in_draws(kernel, reference, rounded, name, used)


def assert_near_in_draws(
    kernel: Operation,
    reference: Operation,
    rounded: Mapping[str, Tensor],
    name: str,
    used: Sequence[int] | None,
) -> None:
    """The single number ``name`` is as near as the reference's over many random functionals."""
    runs = (kernel, rounded), (reference, rounded), (reference, cast(rounded, torch.float64))
    ours, theirs, exact = (
        torch.stack([results(*run, draw, used, DEVICE)[name].double() for draw in range(DRAWS)])
        for run in runs
    )
    assert relative_error(ours, exact) <= SHARE_OF_BF16 * relative_error(theirs, exact), name


def launched_and_captured(
    step: Callable[[], tuple[Tensor, ...]],
) -> tuple[list[Tensor], torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """Copies of what a step returns, a CUDA graph of it, and the tensors that a replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = [x.clone() for x in step()]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    return expected, graph, captured
