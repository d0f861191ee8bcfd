"""Trellis-coded quantisation: two interleaved grids, and codes that say which of them comes next.

A code is a level of a grid. A second grid lies half a step beside the first, and a machine of
``STATES`` states says which of both a code is of; a code's last bit moves the machine on. So a row
has levels half a step apart for the bytes of a whole step, but not in every order. The best path
has 1.0 dB less error than nearest levels at equal entropy, of the 1.53 that any code can gain.

Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources" (1990);
the machine is Ungerboeck's code of 8 states (1982), with the parity polynomials 13 and 04, octal.
"""

import torch
from torch import Tensor

STATES = 8
BY_CODE, BY_STATE = 0o04 >> 1, 0o13 >> 1


def following(state: Tensor, code: Tensor) -> Tensor:
    """Return the state after ``code``, both of any integer dtype; that of ``state``."""
    return (state >> 1) ^ (BY_CODE * (code & 1)) ^ (BY_STATE * (state & 1))


def order_of(columns: Tensor) -> Tensor:
    """Return the order in which the machine reads a row: columns of fine steps first.

    Args:
        columns: (..., cols), factors of the steps. Equal ones go by their index.
    """
    return columns.argsort(dim=-1, stable=True)


def levels(codes: Tensor, order: Tensor | None) -> Tensor:
    """Return what codes (..., rows, cols) int8 stand for, fp32 in steps.

    Args:
        codes: of the machine that starts each row in state 0.
        order: (..., cols) of `order_of`; None: from left to right.
    """
    if order is not None:
        index = order.unsqueeze(-2).expand(codes.shape)
        found = levels(codes.gather(-1, index), None)
        return torch.empty_like(found).scatter_(-1, index, found)
    state = codes.new_zeros(codes.shape[:-1])
    beside = torch.empty_like(codes)
    for column in range(codes.size(-1)):
        beside[..., column] = state & 1
        state = following(state, codes[..., column])
    return codes.float() + beside.float() / 2
