"""The path of least error through a trellis, for all rows of a bank at once: Viterbi's algorithm.

Every state of `artifact.trellis` has a survivor: the best codes that lead there, with what GPTQ's
corrections have made of the columns to come. Its costs are GPTQ's, ``tr(D H D^T)``.
"""

import torch
from torch import Tensor

from artifact.trellis import STATES, following


def entries(device: torch.device) -> Tensor:
    """Return what leads to each state, (STATES, 2): twice a state, plus the last bit of a code."""
    moves = torch.arange(2 * STATES, device=device)
    return following(moves >> 1, moves & 1).argsort(stable=True).view(STATES, 2)


def best_paths(
    left: Tensor, upper: Tensor, step: Tensor, top: int, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes and errors of a block's columns, and the states after them.

    Args:
        left: (n, rows, b) fp32, the columns with the corrections of earlier blocks.
        upper: (n, b, b), ``U^T U = H^-1``.
        step: (n, rows, b) fp32.
        top: codes lie in [-top, top].
        state: (n, rows) int64 before the block.

    Returns:
        codes and errors (n, rows, b) fp32, as `artifact.quantisation.gptq` compensates them;
        states (n, rows).
    """
    into = entries(left.device)
    beside = torch.arange(STATES, device=left.device)[:, None] % 2 / 2
    odd = torch.arange(2, device=left.device)
    most = top - 1 + odd  # with the same last bit
    cost = torch.full((*state.shape, STATES), torch.inf, device=left.device)
    cost.scatter_(-1, state[..., None], 0.0)
    live = left.unsqueeze(-2).expand(*state.shape, STATES, -1)
    path = []
    for column in range(left.size(-1)):
        value, width = live[..., :1], step[..., column, None, None]
        # The nearest code of either parity, (n, rows, STATES, 2).
        code = ((value / width - beside - odd) / 2).round_().mul_(2).add_(odd).clamp_(-most, most)
        error = (value - (code + beside) * width) / upper[:, column, column, None, None, None]
        total = (cost[..., None] + error.square()).flatten(-2)[..., into]
        cost, which = total.min(dim=-1)
        taken = torch.where(which > 0, into[:, 1], into[:, 0])
        code, error = (of.flatten(-2).gather(-1, taken) for of in (code, error))
        source = taken >> 1
        path.append((code, error, source))
        live = live[..., 1:].gather(-2, source[..., None].expand_as(live[..., 1:]))
        live = live - error[..., None] * upper[:, None, None, column, column + 1 :]
    return _traced(path, cost.argmin(dim=-1, keepdim=True))


def _traced(
    path: list[tuple[Tensor, Tensor, Tensor]], end: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes and errors that lead to the states ``end`` (n, rows, 1), and these."""
    codes, errors, state = [], [], end
    for code, error, source in reversed(path):
        codes.append(code.gather(-1, state))
        errors.append(error.gather(-1, state))
        state = source.gather(-1, state)
    return torch.cat(codes[::-1], dim=-1), torch.cat(errors[::-1], dim=-1), end[..., 0]
