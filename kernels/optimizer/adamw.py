"""AdamW of any number of tensors in one launch, with their exponential averages.

    m <- m + (1 - beta1) (g - m),  v <- beta2 v + (1 - beta2) g^2
    weight <- (1 - rate decay) weight - rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
    average <- average + (1 - averaging_decay) (weight - average)
    weight <- weight + lean (weight - average),  if it has an average and weights lean

All tensors are fp32; g is the clipped gradient. It reads five tensors and writes four: 67 MB for
the 2.09 M parameters of preset ``seed``, half of which have no average.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.common.launch import Launch
from kernels.optimizer.gradient_norm import APPLIED, COEFFICIENT, GradientNorm
from kernels.optimizer.multi_tensor import Addresses, chunk_at, chunk_map, size_at, tensor_at
from kernels.optimizer.statistics import STATISTICS
from kernels.optimizer.step_levers import StepLevers

LAUNCH = Launch(elements=1_024, warps=4)  # 8 a thread, of five tensors: 110 registers


class Tables(NamedTuple):
    """Numbers by tensor: int64 addresses, except rates (fp32) and sizes (int32)."""

    gradients: Any
    weights: Any
    first: Any
    second: Any
    averages: Any
    rates: Any
    sizes: Any


class Rule(NamedTuple):
    """Constants of all steps; logarithms have base 2."""

    share1: Any
    """1 - beta1."""
    share2: Any
    """1 - beta2."""
    log_beta1: Any
    log_beta2: Any
    eps: Any
    weight_decay: Any
    """Of all tensors, or (tensors,) fp32 of each."""


class FusedAdamW:
    """Update weights, both moments and averages in one pass.

    Attributes:
        statistics: (chunks, 3) fp32 of each chunk's step: squares of the update, of the new weight,
            and 0, because nothing here is stored on the int6 grid.
        chunks: (chunks, 2) int32: a program's parameter, and the first element of its chunk.

    Args:
        norm: of the gradients of all parameters, whose decision is applied; the mappings below
            have indices among those parameters.
        first, second: moments of the parameters that AdamW updates, and no others.
        rates, decays: learning rate and decoupled weight decay of each of them, before the levers.
        averages: of those that have one.
        levers: read in every step.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
        cautious: decay a weight only if its update has its sign.
    """

    def __init__(
        self,
        norm: GradientNorm,
        first: Mapping[int, Tensor],
        second: Mapping[int, Tensor],
        rates: Mapping[int, float],
        decays: Mapping[int, float],
        averages: Mapping[int, Tensor],
        levers: StepLevers,
        *,
        betas: tuple[float, float],
        eps: float,
        cautious: bool = False,
    ) -> None:
        parameters, device = norm.parameters, norm.decision.device
        self.norm, self.levers = norm, levers
        self.betas, self.eps, self.cautious = betas, eps, cautious
        self.chunks = chunk_map(parameters, list(first), LAUNCH.elements, device)
        self.statistics = torch.zeros(len(self.chunks), STATISTICS, device=device)
        indices = range(len(parameters))
        self.rates, each = (
            torch.tensor([numbers.get(index, 0.0) for index in indices], device=device)
            for numbers in (rates, decays)
        )
        alike = len(set(decays.values())) == 1
        self.weight_decay = next(iter(decays.values())) if alike else each
        self.weights = Addresses(parameters, device)
        self.first, self.second, self.averages = (
            Addresses([state.get(index) for index in indices], device)
            for state in (first, second, averages)
        )

    def __call__(self) -> None:
        """Apply the gradients, unless the norm's decision is to skip the step."""
        norm = self.norm
        columns = (norm.gradients, self.weights, self.first, self.second, self.averages)
        adamw_step[(len(self.chunks),)](
            Tables(*(addresses.table for addresses in columns), self.rates, norm.sizes),
            self.chunks,
            norm.decision,
            norm.counts,
            self.levers,
            self.statistics,
            self._rule(),
            CHUNK=LAUNCH.elements,
            ALIGNED=all(addresses.aligned for addresses in columns),
            CAUTIOUS=self.cautious,
            **LAUNCH.options,
        )

    def _rule(self) -> Rule:
        beta1, beta2 = self.betas
        logarithms = (math.log2(beta) if beta else -math.inf for beta in self.betas)
        return Rule(1 - beta1, 1 - beta2, *logarithms, self.eps, self.weight_decay)


@triton.jit
def adamw_step(
    tables,
    chunks,
    decision,
    counts,
    levers,
    statistics,
    rule,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    CAUTIOUS: tl.constexpr,
):
    """Update a chunk of a tensor by the module's formulas; t counts this step, too.

    tables ``Tables``, chunks (programs, 2) int32, decision and counts ``GradientNorm``'s, levers
    ``StepLevers``, statistics (programs, 3) fp32, rule ``Rule``. CAUTIOUS: a weight decays only if
    its update has its sign.
    """
    program = tl.program_id(0)
    tensor, start = chunk_at(chunks, program)
    size, offsets = size_at(tables.gradients, tables.sizes, tensor), start + tl.arange(0, CHUNK)
    if tl.load(decision + APPLIED) > 0:
        steps = tl.load(counts).to(tl.float32)
        rate = tl.load(tables.rates + tensor) * tl.load(levers.lr_scale)
        decay = rule.weight_decay
        if decay.dtype.is_ptr():
            decay = tl.load(decay + tensor)
        columns = (
            tensor_at(tables.gradients, tensor, ALIGNED) + offsets,
            tensor_at(tables.weights, tensor, ALIGNED) + offsets,
            tensor_at(tables.first, tensor, ALIGNED) + offsets,
            tensor_at(tables.second, tensor, ALIGNED) + offsets,
            tensor_at(tables.averages, tensor, ALIGNED) + offsets,
        )
        numbers = (
            tl.load(decision + COEFFICIENT),
            rate / (1 - tl.exp2(steps * rule.log_beta1)),
            tl.sqrt_rn(1 - tl.exp2(steps * rule.log_beta2)),
            1 - rate * decay * tl.load(levers.decay_factor),
            1 - tl.load(levers.averaging_decay),
            None if levers.lean is None else tl.load(levers.lean),
        )
        has_average = tl.load(tables.averages + tensor) != 0
        results = statistics + 3 * program
        # As in the norm: only a tensor's last chunk pays for a mask.
        if start + CHUNK <= size:
            mask = tl.full((CHUNK,), True, tl.int1)
            step_elements(columns, rule, numbers, has_average, results, mask, CAUTIOUS)
        else:
            step_elements(columns, rule, numbers, has_average, results, offsets < size, CAUTIOUS)


@triton.jit
def step_elements(columns, rule, numbers, has_average, statistics, mask, CAUTIOUS: tl.constexpr):
    """Apply the step's formulas to the elements that ``columns`` point to."""
    gradients, weights, firsts, seconds, averages = columns
    coefficient, rate, root, decayed, average_share, lean = numbers
    gradient = tl.load(gradients, mask=mask, other=0.0) * coefficient
    weight = tl.load(weights, mask=mask, other=0.0)
    first = tl.load(firsts, mask=mask, other=0.0)
    second = tl.load(seconds, mask=mask, other=0.0)
    first += rule.share1 * (gradient - first)
    second = second - rule.share2 * second + rule.share2 * gradient * gradient
    if CAUTIOUS:
        decayed = tl.where(first * weight >= 0, decayed, 1.0)
    stepped = decayed * weight - rate * (first / (tl.sqrt(second) / root + rule.eps))
    if lean is None:
        tl.store(weights, stepped, mask=mask)
    tl.store(firsts, first, mask=mask)
    tl.store(seconds, second, mask=mask)
    if has_average:
        average = tl.load(averages, mask=mask, other=0.0)
        average += average_share * (stepped - average)
        tl.store(averages, average, mask=mask)
        if lean is not None:
            stepped += lean * (stepped - average)
    if lean is not None:
        tl.store(weights, stepped, mask=mask)
    change = stepped - weight
    tl.store(statistics, tl.sum(change * change))
    tl.store(statistics + 1, tl.sum(stepped * stepped))
