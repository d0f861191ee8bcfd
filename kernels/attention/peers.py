"""Other makers' attention behind one function, to be measured against and to fall back on.

Each takes queries, keys and values as they are, (B, T, H, D), (B, T, G, D) and (B, T, G, D) with
query head h reading key head h // (H / G), and gives their causal attention, (B, T, H, D).
``visible`` (B, 1, T, T), boolean, takes the place of the causal mask where it is given.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention.reference import Attend, scaled_dot_product

# FlashAttention-3 is the faster on Hopper; FlashAttention-2 is what the package index has.
FLASH_PACKAGES = ("flash_attn_interface", "flash_attn")


def attention_by(name: str) -> Attend:
    """The attention of that name: sdpa (what PyTorch picks), cudnn, or flash.

    Raises:
        ValueError: there is no such name.
        ModuleNotFoundError: flash, and neither of its packages is installed.
    """
    if name == "sdpa":
        return scaled_dot_product
    if name == "cudnn":
        return cudnn
    if name == "flash":
        return flash()
    raise ValueError(f"attention {name!r} is none of sdpa, cudnn, flash")


def cudnn(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """cuDNN's; plain products where it has no kernel for the shapes or the dtype."""
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        return scaled_dot_product(q, k, v, visible)


def flash() -> Attend:
    """FlashAttention-3 if it is installed, else FlashAttention-2 (Dao-AILab/flash-attention)."""
    function = flash_function()

    def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        if visible is not None:
            raise ValueError("flash attention takes no mask of documents")
        found = function(q, k, v, causal=True)
        # Some releases of FlashAttention-3 return the rows' log-sums as well.
        return found[0] if isinstance(found, tuple) else found

    return attend


def flash_function() -> Callable[..., Any]:
    """``flash_attn_func`` of the first package that is installed."""
    for package in FLASH_PACKAGES:
        try:
            return importlib.import_module(package).flash_attn_func
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "attention backend flash needs flash_attn_interface (FlashAttention-3) or flash_attn "
        "installed; choose auto, cudnn or sdpa"
    )
