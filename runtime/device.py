"""Device, backend and dtype of a run: resolves "auto", refuses what the machine does not have."""

import os
from dataclasses import dataclass

import torch

from errors import InputError
from kernels.attention.peers import attention_by
from kernels.common.device import is_hopper
from kernels.routes import Sizes
from model.config import Architecture
from settings import Settings

OTHERS_GIB = 4.0  # more than CUDA and NCCL need for themselves, less than a run has


@dataclass(frozen=True)
class Backends:
    """``backend`` and ``attention`` as ``kernels.operations`` takes them, and the compute dtype."""

    backend: str
    attention: str
    dtype: torch.dtype


def device_type(wanted: str) -> str:
    """Return "cuda" or "cpu"; if ``wanted`` is "auto", "cuda" if there is a GPU.

    Raises:
        InputError: "cuda" is wanted, and there is no GPU.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("--device cuda, but torch sees no GPU; use --device cpu")
    if wanted == "auto":
        return "cuda" if available else "cpu"
    return wanted


def choose(settings: Settings, device: torch.device, fp8: bool = False) -> Backends:
    """Return the backends of a run on ``device``.

    Args:
        settings: of the run.
        device: that it runs on.
        fp8: whether the run takes steps with products in fp8.

    Raises:
        InputError: the device cannot run what the settings want, or a package is not installed.
    """
    on_gpu = device.type == "cuda"
    name = settings.dtype if settings.dtype != "auto" else ("bfloat16" if on_gpu else "float32")
    dtype = getattr(torch, name)
    on_hopper = is_hopper(device) and dtype == torch.bfloat16
    backend = choose_backend(settings, on_gpu, on_hopper, fp8)
    if backend == "kernels" and not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError("--backend kernels needs a CUDA GPU; use --backend reference on a CPU")
    windows = [settings.window, settings.near_window, *settings.swarm_windows]
    for stage in settings.stages:
        windows += [stage.window, stage.near_window]
    if settings.attention_backend == "flash" and any(windows):
        raise InputError("--attention-backend flash has no window; use cudnn")
    return Backends(backend, choose_attention(settings.attention_backend, backend, on_gpu), dtype)


def choose_backend(settings: Settings, on_gpu: bool, on_hopper: bool, fp8: bool = False) -> str:
    """Return the model's backend: "auto" is the fastest that fits device, dtypes and network.

    Args:
        settings: of the run.
        on_gpu: whether the device is a GPU.
        on_hopper: whether it is a Hopper GPU, and the dtype bfloat16.
        fp8: whether the run takes steps with products in fp8.

    Raises:
        InputError: the backend has no products in fp8 of these sizes.
    """
    odd = fp8 and (settings.model_dim % 16 or settings.mlp_dim % 16)
    if settings.backend == "kernels" and odd:
        raise InputError(
            f"backend kernels needs model_dim {settings.model_dim} and the MLP's width "
            f"{settings.mlp_dim} to be multiples of 16 in fp8"
        )
    if settings.backend != "auto":
        return settings.backend
    if not on_gpu:
        return "reference"
    try:
        settings.check_kernels()
    except ValueError:
        return "compiled"
    return "kernels" if on_hopper and not odd else "compiled"


def choose_attention(wanted: str, backend: str, on_gpu: bool) -> str:
    """Return the attention's name for ``kernels.operations``: "own" is the kernels' attention.

    Without the kernels, "auto" is cuDNN's, the fastest on Hopper GPUs that torch has.
    """
    if wanted == "kernels" and backend != "kernels":
        raise InputError(f"--attention-backend kernels needs --backend kernels, not {backend}")
    if wanted == "kernels" or (wanted == "auto" and backend == "kernels"):
        return "own"
    if wanted == "auto":
        return "cudnn" if on_gpu else "sdpa"
    if wanted == "cudnn" and not on_gpu:
        raise InputError("--attention-backend cudnn needs a CUDA GPU; use sdpa on a CPU")
    try:
        attention_by(wanted, backend == "compiled")
    except ModuleNotFoundError as error:
        raise InputError(str(error)) from None
    return wanted


def memory_of_others(device: torch.device) -> float:
    """Return the GiB of a GPU's memory that this process has not reserved; on a CPU 0.

    Above ``OTHERS_GIB`` another process uses the GPU.
    """
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free - torch.cuda.memory_reserved(device)) / 2**30


def sizes_of(config: Architecture) -> Sizes:
    """Return what the choice of kernels depends on."""
    heads = (config.num_heads, config.num_kv_heads, config.head_dim, config.rope_dims)
    return Sizes(config.model_dim, *heads, config.mlp_dim)
