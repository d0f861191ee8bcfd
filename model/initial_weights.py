"""Initial weights, the same on every device and rank for one seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.config import Architecture
from model.parameters import Constant, Init, Normal, Orthogonal, parameters


@torch.no_grad()
def initialise(
    model: nn.Module, config: Architecture, seed: int, embedding_gain: Tensor | None = None
) -> None:
    """Give every parameter of ``model`` the initial value that ``model.parameters`` declares.

    The bigram and value projections are orthogonal, not zero, because a zero table times a zero
    projection never has a gradient on either side. (PR #1081 declares them zero, and its later
    pass over all linear layers makes them orthogonal.)

    Args:
        model: a ``model.gpt.GPT``.
        config: its architecture.
        seed: of the random numbers.
        embedding_gain: (V,) fp32, factor on each token's embedding; None: one.
    """
    generator = torch.Generator().manual_seed(seed)
    with one_thread():
        for spec in parameters(config):
            fill(model.get_parameter(spec.name), spec.init, generator, embedding_gain)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, for LAPACK on small matrices.

    With all threads of a large machine it takes a minute while another process is busy, and its
    results depend on the number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fill(parameter: Tensor, init: Init, generator: torch.Generator, gain: Tensor | None) -> None:
    """Give one parameter its initial value; ``gain`` (V,) is of each token's embedding."""
    match init:
        case Constant((value,)):
            parameter.fill_(value)
        case Constant(values):
            for index, value in enumerate(values):
                parameter[:, index] = value
        case Normal(std, per_token):
            parameter.normal_(0.0, std, generator=generator)
            if per_token and gain is not None:
                parameter.mul_(gain[:, None])
        case Orthogonal(zeros):
            matrices = parameter if parameter.ndim == 3 else parameter[None]
            orthogonal(matrices[: len(matrices) - zeros], generator)
            matrices[len(matrices) - zeros :] = 0.0


def orthogonal(matrices: Tensor, generator: torch.Generator) -> None:
    """Fill each (rows, cols) slice with a random orthogonal matrix (arXiv:1312.6120)."""
    for matrix in matrices:
        nn.init.orthogonal_(matrix, generator=generator)
