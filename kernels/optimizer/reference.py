"""The optimizers in plain PyTorch: Muon on banks of matrices, AdamW on all else.

Muon orthogonalises the momentum (Jordan et al. 2024). AdamW (Loshchilov & Hutter 2017,
arXiv:1711.05101) is PyTorch's function. All tensors are fp32, except in Muon's products.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from kernels.optimizer.state import Shape, State, zeros

Coefficients = Sequence[tuple[float, float, float]]

# Of the quintic iteration, from Keller Jordan's Muon: they push all singular values towards one
# fast, rather than to it exactly.
CLASSIC = (3.4445, -4.7750, 2.0315)
# Polar Express (Amsel et al. 2025, arXiv:2505.16932, algorithm 1): each polynomial is optimal for
# the image of [0.001, 1] under those before it. Later iterations use ``LIMIT``.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
LIMIT = (1.875, -1.25, 0.375)
# Its authors' margin: rounding in bf16 may take singular values a little above one.
MARGIN = 1.01
ROW_EPS = 1e-7
SECOND_FLOOR = 1e-10  # of a row's second moment, so that rows without an update stay finite


def newton_schulz(kind: str, steps: int) -> Coefficients:
    """Return (a, b, c) of each of ``steps`` iterations; ``kind`` is classic or polar_express."""
    if kind == "classic":
        return [CLASSIC] * steps
    safe = [(a / MARGIN, b / MARGIN**3, c / MARGIN**5) for a, b, c in POLAR_EXPRESS]
    return list(islice(chain(safe, repeat(LIMIT)), steps))


def orthogonalise(matrices: Tensor, coefficients: Coefficients, dtype: torch.dtype) -> Tensor:
    """Return approximately the nearest semi-orthogonal matrix to each: singular values near one.

    Newton-Schulz: ``X <- a X + (b A + c A A) X`` with ``A = X X^T``, on the wide orientation, from
    ``X = G / |G|``.

    Args:
        matrices: (n, rows, cols).
        coefficients: (a, b, c) of each iteration.
        dtype: of the products; bf16 is enough and fast on a GPU.

    Returns:
        (n, rows, cols) in ``dtype``.
    """
    x = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def even_rows(update: Tensor, second: Tensor, beta2: float) -> Tensor:
    """Return NorMuon's update: rows of similar size, each matrix of its old Frobenius norm.

    Li et al. 2025, arXiv:2510.05491.

        second <- beta2 * second + (1 - beta2) * mean(update^2)   of each row
        update <- update / sqrt(second), times what restores the matrix's norm

    Args:
        update: (n, rows, cols), orthogonalised, in any dtype.
        second: (n, rows, 1), the rows' second moments; moved.
        beta2: decay of ``second`` a step.

    Returns:
        (n, rows, cols) in ``second``'s dtype.
    """
    update = update.to(second.dtype)
    mean = update.square().mean(dim=-1, keepdim=True)
    second.lerp_(mean, 1 - beta2)
    scale = second.clamp(min=SECOND_FLOOR).rsqrt()
    before, after = mean.sum(-2, keepdim=True), (mean * scale.square()).sum(-2, keepdim=True)
    return update * scale * (before / after.clamp(min=SECOND_FLOOR)).sqrt()


class Muon:
    """Muon over groups of banks, each (n, rows, cols) fp32, with decoupled weight decay.

        momentum <- beta * momentum + gradient
        update    = orthogonalise(gradient + beta * momentum) * sqrt(max(1, rows / cols))
        weight   <- (1 - lr * decay) * weight - lr * update

    Attributes:
        states: by name of the state, then of the bank.
        banks: by name, of all groups.

    Args:
        groups: group name to banks by name.
        coefficients: of each Newton-Schulz iteration.
        weight_decay: decoupled, by group.
        dtype: of the Newton-Schulz products.
        row_norm: give rows length one before the orthogonalisation, which then sees a smaller
            spread of singular values (MuonEq, arXiv:2603.28254).
        beta2: decay of the rows' second moments, which then scale the update (``even_rows``); 0:
            there are none.
        cautious: decay a weight only if its update has its sign (arXiv:2510.12402).
    """

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, Tensor]],
        coefficients: Coefficients,
        weight_decay: Mapping[str, float],
        dtype: torch.dtype,
        *,
        row_norm: bool = False,
        beta2: float = 0.0,
        cautious: bool = False,
    ) -> None:
        self.groups = {group: dict(banks) for group, banks in groups.items()}
        self.banks = {n: bank for banks in self.groups.values() for n, bank in banks.items()}
        self.coefficients, self.weight_decay = coefficients, dict(weight_decay)
        self.dtype, self.row_norm = dtype, row_norm
        self.beta2, self.cautious = beta2, cautious
        self.states = zeros(self.banks, self.declare)

    def declare(self, shape: Shape) -> tuple[State, ...]:
        """Return the states of a bank of this shape."""
        momentum = State("muon.momentum", shape, axis=0)
        second = State("muon.second_moment", (*shape[:2], 1), axis=0)
        return (momentum, second) if self.beta2 else (momentum,)

    @property
    def momentum(self) -> dict[str, Tensor]:
        """By bank."""
        return self.states.get("muon.momentum", {})

    @property
    def second(self) -> dict[str, Tensor]:
        """Second moments of the rows by bank; empty without ``beta2``."""
        return self.states.get("muon.second_moment", {})

    @torch.no_grad()
    def step(self, lr: Mapping[str, float], beta: float) -> None:
        """Apply the gradients in ``grad``, with each group's learning rate."""
        for group, banks in self.groups.items():
            self._step_group(banks, lr[group], self.weight_decay[group], beta)

    def _step_group(
        self, banks: Mapping[str, Tensor], lr: float, decay: float, beta: float
    ) -> None:
        for name, bank in banks.items():
            if bank.grad is None:
                continue
            momentum = self.momentum[name].mul_(beta).add_(bank.grad)
            nesterov = bank.grad.add(momentum, alpha=beta)
            if self.row_norm:
                nesterov /= nesterov.norm(dim=-1, keepdim=True) + ROW_EPS
            update = orthogonalise(nesterov, self.coefficients, self.dtype)
            if self.beta2:
                update = even_rows(update, self.second[name], self.beta2)
            stretch = max(1.0, bank.size(-2) / bank.size(-1)) ** 0.5
            decay_(bank, update, 1 - lr * decay, self.cautious)
            bank.add_(update.to(bank.dtype), alpha=-lr * stretch)


def decay_(weight: Tensor, update: Tensor, factor: float, cautious: bool) -> None:
    """Multiply weights by ``factor``; if cautious, only those whose update has their sign."""
    if cautious:
        weight.copy_(torch.where(update * weight >= 0, weight * factor, weight))
    else:
        weight.mul_(factor)


@torch.no_grad()
def lean_(weights: Mapping[str, Tensor], averages: Mapping[str, Tensor], share: float) -> None:
    """Move weights further from their averages: ``weight <- weight + share (weight - average)``.

    With an average of decay g, ``share = b (1 - g) / g`` takes ``b`` times the exponential mean of
    the steps so far: Nesterov's look-ahead by that mean, without a further state.

    Args:
        weights: by name.
        averages: of those that lean, already moved towards them.
        share: of the way.
    """
    live = [weights[name] for name in averages]
    torch._foreach_add_(live, torch._foreach_sub(live, list(averages.values())), alpha=share)


class AdamW:
    """AdamW over groups that share betas and epsilon; its state exists from the start.

    Attributes:
        states: by name of the state, then of the parameter.
        count: () int64 on the host, steps taken.

    Args:
        groups: group name to parameters by name.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, by group.
        cautious: as ``Muon``'s.
    """

    def __init__(
        self,
        groups: Mapping[str, Mapping[str, Tensor]],
        betas: tuple[float, float],
        eps: float,
        weight_decay: Mapping[str, float],
        *,
        cautious: bool = False,
    ) -> None:
        self.groups = {group: dict(parameters) for group, parameters in groups.items()}
        everything = {n: p for parameters in self.groups.values() for n, p in parameters.items()}
        self.states = zeros(everything, self.declare)
        self.count = torch.zeros((), dtype=torch.int64)
        self.betas, self.eps, self.weight_decay = betas, eps, dict(weight_decay)
        self.cautious = cautious

    @staticmethod
    def declare(shape: Shape) -> tuple[State, ...]:
        """Return the states of a parameter of this shape."""
        return State("adamw.first", shape), State("adamw.second", shape)

    @property
    def first(self) -> dict[str, Tensor]:
        """First moments by parameter."""
        return self.states.get("adamw.first", {})

    @property
    def second(self) -> dict[str, Tensor]:
        """Second moments by parameter."""
        return self.states.get("adamw.second", {})

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.count)

    @steps.setter
    def steps(self, taken: int) -> None:
        self.count.fill_(taken)

    @torch.no_grad()
    def step(self, lr: Mapping[str, float]) -> None:
        """Apply the gradients in ``grad``, with each group's learning rate."""
        self.steps += 1
        for group, parameters in self.groups.items():
            gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
            if gradients:
                live = {name: parameters[name] for name in gradients}
                self._step_group(
                    live, list(gradients.values()), lr[group], self.weight_decay[group]
                )

    def _step_group(
        self, live: Mapping[str, Tensor], gradients: list[Tensor], lr: float, decay: float
    ) -> None:
        names, parameters = list(live), list(live.values())
        if self.cautious:
            directions = torch._foreach_lerp(
                [self.first[name] for name in names], gradients, 1 - self.betas[0]
            )
            for parameter, direction in zip(parameters, directions, strict=True):
                decay_(parameter, direction, 1 - lr * decay, cautious=True)
            decay = 0.0
        adamw(
            parameters,
            gradients,
            [self.first[name] for name in names],
            [self.second[name] for name in names],
            [],
            # PyTorch counts a step before it uses the count.
            [torch.tensor(float(self.steps - 1)) for _ in names],
            foreach=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=decay,
            eps=self.eps,
            maximize=False,
        )
