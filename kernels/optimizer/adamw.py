"""AdamW of any number of tensors in one launch, with their exponential averages."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
import math
from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.optimizer.gradient_norm import APPLIED, COEFFICIENT, GradientNorm
from kernels.optimizer.multi_tensor import Addresses, chunk_at, chunk_map, size_at, tensor_at
from kernels.optimizer.statistics import STATISTICS
from kernels.optimizer.step_levers import StepLevers

CHUNK = 1_024  # elements of a program: 8 a thread, of five tensors
WARPS = 4


class FusedAdamW:
    """One pass over gradients, weights, both moments and averages.

    Attributes:
        statistics: (chunks, 3) fp32 of each chunk's step: squares of the update, of the new weight,
            and 0, since nothing here lies on the int6 grid.
        chunks: (chunks, 2) int32: a program's parameter, and the first element of its chunk.

    Args:
        norm: whose decision is applied, over all parameters; indices below are places among them.
        first, second: moments of the parameters that learn by AdamW; those only.
        rates: the learning rate of each of them, before its lever.
        averages: of those that have one.
        levers: read in every step.
        weight_decay: decoupled, before its lever.
        betas: decays of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        norm: GradientNorm,
        first: Mapping[int, Tensor],
        second: Mapping[int, Tensor],
        rates: Mapping[int, float],
        averages: Mapping[int, Tensor],
        levers: StepLevers,
        *,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        parameters, device = norm.parameters, norm.decision.device
        self.norm, self.levers, self.weight_decay = norm, levers, weight_decay
        self.betas, self.eps = betas, eps
        self.chunks = chunk_map(parameters, list(first), CHUNK, device)
        self.statistics = torch.zeros(len(self.chunks), STATISTICS, device=device)
        places = range(len(parameters))
        self.rates = torch.tensor([rates.get(place, 0.0) for place in places], device=device)
        self.weights = Addresses(parameters, device)
        self.firsts, self.seconds, self.averages = (
            Addresses([column.get(place) for place in places], device)
            for column in (first, second, averages)
        )

    def __call__(self) -> None:
        """Apply the gradients, if the norm's decision is to."""
        (beta1, beta2), norm = self.betas, self.norm
        columns = (norm.gradients, self.weights, self.firsts, self.seconds, self.averages)
        adamw_step[(len(self.chunks),)](
            *(addresses.table for addresses in columns),
            self.rates,
            norm.sizes,
            self.chunks,
            norm.decision,
            norm.counts,
            self.levers.lr_scale,
            self.levers.decay_factor,
            self.levers.averaging_decay,
            self.statistics,
            1 - beta1,
            1 - beta2,
            math.log2(beta1) if beta1 else -math.inf,
            math.log2(beta2) if beta2 else -math.inf,
            self.eps,
            self.weight_decay,
            CHUNK=CHUNK,
            ALIGNED=all(addresses.aligned for addresses in columns),
            num_warps=WARPS,
        )


@triton.jit
def adamw_step(
    gradients,
    weights,
    firsts,
    seconds,
    averages,
    rates,
    sizes,
    chunks,
    decision,
    counts,
    lr_scale,
    decay_factor,
    averaging_decay,
    statistics,
    share1,
    share2,
    log_beta1,
    log_beta2,
    eps,
    weight_decay,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The clipped gradient into both moments, these into the weight, that into its average.

        weight <- (1 - rate decay) weight - rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)

    with t the steps applied, this one included. gradients, weights, firsts, seconds and averages
    are (tensors,) int64 tables, rates (tensors,) fp32, sizes (tensors,) int32, chunks (programs, 2)
    int32, decision and counts ``GradientNorm``'s, statistics (programs, 3) fp32. share1 and share2
    are 1 - beta; logarithms are of base 2. At the real size, 2.09 M parameters, half of them
    without an average: 67 MB, 16 us at 4275 GB/s.
    """
    program = tl.program_id(0)
    tensor, start = chunk_at(chunks, program)
    size, offsets = size_at(gradients, sizes, tensor), start + tl.arange(0, CHUNK)
    if tl.load(decision + APPLIED) > 0:
        steps = tl.load(counts).to(tl.float32)
        rate = tl.load(rates + tensor) * tl.load(lr_scale)
        columns = (
            tensor_at(gradients, tensor, ALIGNED) + offsets,
            tensor_at(weights, tensor, ALIGNED) + offsets,
            tensor_at(firsts, tensor, ALIGNED) + offsets,
            tensor_at(seconds, tensor, ALIGNED) + offsets,
            tensor_at(averages, tensor, ALIGNED) + offsets,
        )
        numbers = (
            tl.load(decision + COEFFICIENT),
            share1,
            share2,
            rate / (1 - tl.exp2(steps * log_beta1)),
            tl.sqrt_rn(1 - tl.exp2(steps * log_beta2)),
            eps,
            1 - rate * weight_decay * tl.load(decay_factor),
            1 - tl.load(averaging_decay),
        )
        has_average, mine = tl.load(averages + tensor) != 0, statistics + 3 * program
        # As in the norm: only a tensor's last chunk pays for a mask.
        if start + CHUNK <= size:
            step_elements(columns, numbers, has_average, mine, tl.full((CHUNK,), True, tl.int1))
        else:
            step_elements(columns, numbers, has_average, mine, offsets < size)


@triton.jit
def step_elements(columns, numbers, has_average, statistics, mask):
    """The step's formulas on the elements that ``columns`` point to."""
    gradients, weights, firsts, seconds, averages = columns
    coefficient, share1, share2, rate, root, eps, keep, average_share = numbers
    gradient = tl.load(gradients, mask=mask, other=0.0) * coefficient
    weight = tl.load(weights, mask=mask, other=0.0)
    first = tl.load(firsts, mask=mask, other=0.0)
    second = tl.load(seconds, mask=mask, other=0.0)
    first += share1 * (gradient - first)
    second = second - share2 * second + share2 * gradient * gradient
    stepped = keep * weight - rate * (first / (tl.sqrt(second) / root + eps))
    tl.store(weights, stepped, mask=mask)
    tl.store(firsts, first, mask=mask)
    tl.store(seconds, second, mask=mask)
    if has_average:
        average = tl.load(averages, mask=mask, other=0.0)
        tl.store(averages, average + average_share * (stepped - average), mask=mask)
    change = stepped - weight
    tl.store(statistics, tl.sum(change * change))
    tl.store(statistics + 1, tl.sum(stepped * stepped))
