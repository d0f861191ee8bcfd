"""A model from its artifact alone."""

from pathlib import Path

import torch
from pydantic import ValidationError

from artifact.export import load
from artifact.format.header import Header
from artifact.quantisation.parts import corrected_by
from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from model.parameters import stored_shapes
from settings.load import describe

MOST_VISITS = 4096


def restore(path: Path, max_seq_len: int, device: torch.device) -> GPT:
    """Rebuild the network that ``path`` holds, ready to score.

    Args:
        path: an artifact.
        max_seq_len: longest window it will see.
        device: where it goes; activations are bf16 on CUDA, fp32 elsewhere.

    Raises:
        InputError: no artifact of this project, or its tensors do not fit its architecture.
    """
    architecture, weights = load(path, check_tensors)
    config = Architecture(**architecture)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = GPT(config, operations("reference"), dtype=dtype, max_seq_len=max_seq_len, seed=0)
    model.load_state_dict(weights)
    return model.to(device)


def check_tensors(header: Header) -> None:
    """Compare a header's tensors with the parameters of its architecture; allocate nothing.

    Raises:
        ValueError: the architecture is impossible, or names or shapes differ.
    """
    try:
        config = Architecture(**header.architecture)
        check_extent(config)
        wanted = stored_shapes(config)
    except ValidationError as error:
        raise ValueError(f"impossible architecture: {describe(error)}") from None
    except (OverflowError, ZeroDivisionError):
        raise ValueError("impossible architecture: a number is too large") from None
    found = {e.name: e.shape for e in header.entries if corrected_by(e.name) not in wanted}
    if wanted != found:
        differ = sorted(dict(wanted.items() ^ found.items()))
        raise ValueError(f"tensors that do not fit its architecture: {', '.join(differ)}")


def check_extent(config: Architecture) -> None:
    """Refuse an architecture whose table of parameters would itself take much memory.

    Raises:
        ValueError: it has too many layers, or multi-token-prediction heads, which no artifact has.
    """
    visits = config.num_layers + config.num_loops * len(config.loop_layers)
    if visits > MOST_VISITS:
        raise ValueError(f"its architecture has {visits:,} layers, more than {MOST_VISITS:,}")
    if config.mtp_num_heads:
        raise ValueError(f"its architecture has {config.mtp_num_heads} prediction heads, not 0")
