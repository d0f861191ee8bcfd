"""A model from its artifact alone."""

from pathlib import Path

import torch
from pydantic import ValidationError

from artifact.export import load
from errors import InputError
from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from settings.load import describe


def restore(path: Path, max_seq_len: int, device: torch.device) -> GPT:
    """Rebuild the network that ``path`` holds, ready to score.

    Args:
        path: an artifact.
        max_seq_len: longest window it will see.
        device: where it goes; activations are bf16 on CUDA, fp32 elsewhere.

    Raises:
        InputError: no artifact of this project, or its tensors do not fit its architecture.
    """
    header, weights = load(path)
    try:
        config = Architecture(**header)
    except ValidationError as error:
        raise InputError(f"{path}: impossible architecture: {describe(error)}") from None
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = GPT(config, operations("reference"), dtype=dtype, max_seq_len=max_seq_len, seed=0)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if wanted != found:
        differ = sorted(dict(wanted.items() ^ found.items()))
        raise InputError(f"{path}: tensors that do not fit its architecture: {', '.join(differ)}")
    model.load_state_dict(weights)
    return model.to(device)
