"""Attention of other packages behind one signature, as fallbacks and to measure against.

Each takes q (B, T, H, D), k and v (B, T, G, D), where query head h reads key head h // (H / G), and
returns their causal attention (B, T, H, D). ``documents``, (2, B, T) int32 bounds, keeps it inside
documents unless it is None.
"""

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention.reference import Attend, causal


def attention_by(name: str, compiled: bool = False) -> Attend:
    """Return the attention of that name: sdpa (PyTorch's choice), cudnn, or flash.

    Args:
        name: of the attention.
        compiled: whether torch.compile is to take it without a break.

    Raises:
        ValueError: there is no such name.
        ModuleNotFoundError: flash, and none of its packages is installed.
    """
    if name == "sdpa":
        return causal
    if name == "cudnn":
        return cudnn
    if name == "flash":
        from kernels.attention.flash import flash  # here, because files of contests leave it out

        return flash(compiled)
    raise ValueError(f"attention {name!r} is none of sdpa, cudnn, flash")


def cudnn(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
    """Compute attention by cuDNN, or by plain products if it has no kernel for shapes or dtype."""
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        return causal(q, k, v, documents)
