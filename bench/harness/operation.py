"""One operation as contests: forward, backward and both, ours against the reference's ways."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch._functorch.config
from torch import Tensor

from bench.harness.bar import Bar
from bench.harness.contest import Contest

DRAWS = 16  # of small inputs for a check
TOLERANCE = 1.5  # times the error that PyTorch makes in the same dtype
# Of a dtype's epsilon: the error of rounding once, relative by norm. If PyTorch's result is exact
# to the last bit, another order of operations still rounds some values the other way.
ONE_ROUNDING = 0.25
EXACT_ENOUGH = 1e-6
DIRECTIONS = ("forward", "backward", "both")
# A compiled graph that donates its buffers cannot run its backward pass twice, to be timed.
torch._functorch.config.donated_buffer = False

Operation = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Cost:
    """The least work of one direction: bytes moved and flops."""

    bytes_moved: int
    flops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes_moved + other.bytes_moved, self.flops + other.flops)


@dataclass(frozen=True)
class Entry:
    """An operation to be timed.

    Attributes:
        name: of the operation.
        ours, reference: the same function of named tensors.
        inputs: at real size, in the compute dtype; floating-point ones get gradients.
        small: draws inputs of the same kind for the check, few enough for fp64.
        forward, backward: least cost of each direction.
        peers: other ways to compute it, besides the compiled reference.
        bars: targets by direction.
        exact_enough: relative error that is always allowed.
    """

    name: str
    ours: Operation
    reference: Operation
    inputs: Mapping[str, Tensor]
    small: Callable[[], Mapping[str, Tensor]]
    forward: Cost
    backward: Cost
    peers: Mapping[str, Operation]
    bars: Mapping[str, Bar] = field(default_factory=dict)
    exact_enough: float = EXACT_ENOUGH

    @cached_property
    def ways(self) -> dict[str, Operation]:
        """Ours and every peer. Compiled once, whatever direction is timed."""
        return {"ours": self.ours, "compiled": torch.compile(self.reference), **self.peers}

    def contest(self, direction: str, alone: bool = False) -> Contest:
        """Return the contest of one of ``DIRECTIONS``: forward, backward, or both in turn.

        Args:
            direction: which.
            alone: without any peer, so nothing is compiled but ours.
        """
        make_call, cost = {
            "forward": (forward_call, self.forward),
            "backward": (backward_call, self.backward),
            "both": (round_call, self.forward + self.backward),
        }[direction]
        ways = {"ours": self.ours} if alone else self.ways
        calls = {way: make_call(operation, self.inputs) for way, operation in ways.items()}
        return Contest(
            name=f"{self.name}, {direction}",
            ours=calls.pop("ours"),
            peers=calls,
            check=lambda: self.checked,
            bytes_moved=cost.bytes_moved,
            flops=cost.flops,
            bar=self.bars.get(direction, Bar()),
        )

    @cached_property
    def checked(self) -> bool:
        """Whether outputs and gradients are as near to fp64 as PyTorch's, times 1.5.

        Rounding once to their dtype is always allowed. Errors are pooled over all draws, because
        one draw's error of a scalar is luck.

        Raises:
            AssertionError: one is not, or is not finite.
        """
        ours, allowed, roundings = PooledErrors(), PooledErrors(), {}
        for _ in range(DRAWS):
            small = self.small()
            exact = outcome(self.reference, {name: widen(x) for name, x in small.items()})
            allowed.add(outcome(self.reference, small), exact)
            found = outcome(self.ours, small)
            ours.add(found, exact)
            roundings = {name: ONE_ROUNDING * torch.finfo(x.dtype).eps for name, x in found.items()}
        for name, rounding in roundings.items():
            error, limit = ours[name], allowed[name]
            if not error <= max(TOLERANCE * limit, rounding, self.exact_enough):
                raise AssertionError(
                    f"{self.name}: {name} is off by {error:.2e}, PyTorch {limit:.2e}"
                )
        return True


def forward_call(
    operation: Operation, inputs: Mapping[str, Tensor]
) -> Callable[[], Sequence[Tensor]]:
    """Return a call of the forward, with all that it saves for the backward."""
    leaves = with_gradients(inputs)
    return lambda: operation(leaves)


def backward_call(
    operation: Operation, inputs: Mapping[str, Tensor]
) -> Callable[[], Sequence[Tensor]]:
    """Return a call of the backward of one forward, run again and again."""
    leaves = with_gradients(inputs)
    outputs, wanted = differentiable(operation(leaves)), differentiable(leaves.values())
    upstream = [upstream_of(output) for output in outputs]
    return lambda: torch.autograd.grad(outputs, wanted, upstream, True, allow_unused=True)


def round_call(
    operation: Operation, inputs: Mapping[str, Tensor]
) -> Callable[[], Sequence[Tensor]]:
    """Return a call of forward and backward."""
    leaves = with_gradients(inputs)
    upstream = [upstream_of(output) for output in differentiable(operation(leaves))]

    def call() -> Sequence[Tensor]:
        outputs = differentiable(operation(leaves))
        return torch.autograd.grad(
            outputs, differentiable(leaves.values()), upstream, allow_unused=True
        )

    return call


def upstream_of(output: Tensor) -> Tensor:
    """Return a random gradient; of a loss one, as its ``backward()`` has it."""
    return torch.randn_like(output) if output.dim() else torch.ones_like(output)


def outcome(operation: Operation, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs and gradients by name, under one fixed random upstream gradient."""
    leaves = with_gradients(inputs)
    outputs = operation(leaves)
    found = {f"output {index}": output.detach() for index, output in enumerate(outputs)}
    generator = torch.Generator().manual_seed(0)
    upstream = [
        torch.randn(output.shape, generator=generator).to(output)
        for output in differentiable(outputs)
    ]
    named = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    gradients = torch.autograd.grad(
        differentiable(outputs), list(named.values()), upstream, allow_unused=True
    )
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is not None:
            found[f"gradient of {name}"] = gradient
    return found


def with_gradients(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return new leaves; those of floating point require gradients."""
    return {
        name: tensor.detach().clone().requires_grad_(tensor.is_floating_point())
        for name, tensor in inputs.items()
    }


def differentiable(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors with gradients, each once: an operation may return one twice."""
    found = {id(tensor): tensor for tensor in tensors if tensor.requires_grad}
    return list(found.values())


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor of floating point as fp64, any other as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


class PooledErrors:
    """Relative errors by name: norms over all draws of the differences, over those of the exact."""

    def __init__(self) -> None:
        self._squares: dict[str, list[float]] = {}

    def add(self, found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
        """Take in one draw's tensors, those that ``found`` names."""
        for name, tensor in found.items():
            wanted = exact[name].double()
            squares = self._squares.setdefault(name, [0.0, 0.0])
            squares[0] += float((tensor.double() - wanted).square().sum())
            squares[1] += float(wanted.square().sum())

    def __getitem__(self, name: str) -> float:
        wrong, whole = self._squares[name]
        return (wrong / max(whole, 1e-60)) ** 0.5
