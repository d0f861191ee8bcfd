"""Initial weights, the same on every device and rank for one seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.config import Architecture

VALUE_TABLE_STD = 0.01
BIGRAM_SCALE = 0.05
VALUE_SCALE = 0.1
GATE_BIAS = 4.0


@torch.no_grad()
def initialise(
    model: nn.Module, config: Architecture, seed: int, embedding_gain: Tensor | None = None
) -> None:
    """Give every parameter of ``model`` its initial value.

    Matrices that read the residual stream start orthogonal, those that write to it start at zero,
    so every block starts as the identity. The bigram and value projections are orthogonal, not
    zero: a zero table times a zero projection has no gradient on either side, for ever. (PR #1081
    declares them zero, and its later pass over all linear layers makes them orthogonal.)

    Args:
        model: a ``model.gpt.GPT``.
        config: its architecture.
        seed: of the random numbers.
        embedding_gain: (V,) fp32, factor on each token's embedding; None: one.
    """
    with one_thread():
        fill(model, config, torch.Generator().manual_seed(seed), embedding_gain)


@contextmanager
def one_thread() -> Iterator[None]:
    """For LAPACK on small matrices: with as many threads as a large machine has it takes a minute
    where another process is busy, and its results depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fill(
    model: nn.Module,
    config: Architecture,
    generator: torch.Generator,
    embedding_gain: Tensor | None,
) -> None:
    """Do what ``initialise`` does, with a generator."""
    layers = config.num_layers
    constants = {
        "smear_gate": 0.0,
        "bigram_table": 0.0,
        "bigram_scale": BIGRAM_SCALE,
        "value_scale": VALUE_SCALE,
        "value_layer_scale": 1.0,
        "attn_scale": 1.0,
        "mlp_scale": 1.0,
        "skip_weight": 1.0,
        "q_gain": config.qk_gain_init,
        "gate_weight": 0.0,
        "gate_bias": GATE_BIAS,
        "value_residual": 0.5,
        "head": 0.0,
        "mtp_heads": 0.0,
        "down_bank": 0.0,
    }
    for name, parameter in model.named_parameters():
        if name in constants:
            parameter.fill_(constants[name])
        elif name == "mix":
            parameter[:, 0], parameter[:, 1] = 1.0, 0.0
        elif name == "tok_emb":
            parameter.normal_(0.0, config.tied_embed_init_std, generator=generator)
            if embedding_gain is not None:
                parameter.mul_(embedding_gain[:, None])
        elif name == "value_table":
            parameter.normal_(0.0, VALUE_TABLE_STD, generator=generator)
        elif name == "qo_bank":
            orthogonal(parameter[:layers], generator)
            parameter[layers:] = 0.0
        elif name in ("kv_bank", "up_bank", "bigram_proj", "value_proj"):
            orthogonal(parameter if parameter.ndim == 3 else parameter[None], generator)
        else:
            raise AssertionError(f"parameter {name} has no initial value")


def orthogonal(matrices: Tensor, generator: torch.Generator) -> None:
    """Fill each (rows, cols) slice with a random orthogonal matrix (arXiv:1312.6120)."""
    for matrix in matrices:
        nn.init.orthogonal_(matrix, generator=generator)
