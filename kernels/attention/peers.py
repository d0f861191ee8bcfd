"""Attention of other packages behind one signature, as fallbacks and to measure against.

Each takes q (B, T, H, D), k and v (B, T, G, D), where query head h reads key head h // (H / G), and
returns their causal attention (B, T, H, D). ``visible`` (B, 1, T, T), boolean, replaces the causal
mask unless it is None.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention.reference import Attend, scaled_dot_product

# FlashAttention-3 is faster on Hopper; the package index has FlashAttention-2.
FLASH_PACKAGES = ("flash_attn_interface", "flash_attn")


def attention_by(name: str) -> Attend:
    """Return the attention of that name: sdpa (PyTorch's choice), cudnn, or flash.

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
    """Compute attention by cuDNN, or by plain products if it has no kernel for shapes or dtype."""
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        return scaled_dot_product(q, k, v, visible)


def flash() -> Attend:
    """Return FlashAttention-3 if it is installed, else FlashAttention-2.

    Both are from Dao-AILab/flash-attention.
    """
    function = flash_function()

    def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        if visible is not None:
            raise ValueError("flash attention takes no mask of documents")
        found = function(q, k, v, causal=True)
        # Some releases of FlashAttention-3 return the rows' lse as well.
        return found[0] if isinstance(found, tuple) else found

    return attend


def flash_function() -> Callable[..., Any]:
    """Return ``flash_attn_func`` of the first package that is installed."""
    for package in FLASH_PACKAGES:
        try:
            return importlib.import_module(package).flash_attn_func
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "attention backend flash needs flash_attn_interface (FlashAttention-3) or flash_attn "
        "installed; choose auto, cudnn or sdpa"
    )
