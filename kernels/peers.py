"""Other packages' ways to compute an operation: one table. None is needed.

A package is imported when its peer is loaded, never before.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Peer:
    """One way to compute one operation.

    Attributes:
        operation: attention, norm, loss or mlp.
        name: as benchmarks print it.
        distribution: what pip installs; empty if it is only built from source.
        module: that is imported.
        functions: of the module, which ``call`` takes as its first argument.
        call: computes the operation, differentiable by autograd.
        compiles: whether torch.compile takes it without a break.
        waits: whether the host waits for the device in a call, so that no graph records it.
    """

    operation: str
    name: str
    distribution: str
    module: str
    functions: tuple[str, ...]
    call: Callable[..., Any]
    compiles: bool = True
    waits: bool = False

    def load(self) -> Callable[..., Any] | None:
        """Return ``call`` with its module, or None if that is not installed or not usable.

        A folder without the functions is not the package: flash-attn-4 alone makes a bare
        ``flash_attn``.
        """
        try:
            module = importlib.import_module(self.module)
        except Exception:  # QuACK raises TypeError where it is not in site-packages
            return None
        found = all(hasattr(module, function) for function in self.functions)
        return partial(self.call, module) if found else None


def flash(module: Any, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return causal attention (B, T, H, D).

    Args:
        module: with FlashAttention's functions.
        q: (B, T, H, D); k and v (B, T, G, D).
        lengths: cumulative lengths of documents, (N + 1,) int32; they end inside their windows.
    """
    if lengths is None:
        found = module.flash_attn_func(q, k, v, causal=True)
    else:
        found = module.flash_attn_varlen_func(
            *(x.flatten(0, 1) for x in (q, k, v)),
            cu_seqlens_q=lengths,
            cu_seqlens_k=lengths,
            max_seqlen_q=q.size(1),
            max_seqlen_k=q.size(1),
            causal=True,
        )
    # flash-attn-4 and some releases of FlashAttention-3 return the rows' log-sums as well.
    found = found[0] if isinstance(found, tuple) else found
    return found.view(q.shape)


def quack_norm(module: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``rmsnorm(x) * weight``."""
    return module.rmsnorm(x, weight, eps=eps)


def liger_norm(module: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``rmsnorm(x) * weight``. In place it would overwrite the gradient that it is given."""
    return module.liger_rms_norm(x, weight, eps, in_place=False)


def quack_loss(
    module: Any, hidden: Tensor, head: Tensor, targets: Tensor, softcap: float
) -> Tensor:
    """Return the mean loss of targets (B, T), without the softcap, which QuACK does not have."""
    del softcap
    return module.chunked_linear_cross_entropy(hidden.flatten(0, 1), head, targets.flatten())


def liger_loss(
    module: Any, hidden: Tensor, head: Tensor, targets: Tensor, softcap: float
) -> Tensor:
    """Return the mean loss of targets (B, T)."""
    return module.liger_fused_linear_cross_entropy(
        hidden.flatten(0, 1), head, targets.flatten().long(), softcap=softcap
    )


def quack_mlp(module: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return ``relu(x @ up.T)^2 @ down.T``, where ours squares a leaky relu."""
    return module.mlp_func(x, up, down, "relu_sq")


FLASH = ("flash_attn_func", "flash_attn_varlen_func")
# Names and signatures of flash-attn-4 4.0.0b36, FlashAttention-3 at 01afd16, flash-attn 2.8.3,
# quack-kernels 0.6.5 and liger-kernel 0.8.5. Attention's are in the order of choice.
PEERS = (
    Peer(
        "attention",
        "FlashAttention-4",
        "flash-attn-4",
        "flash_attn.cute",
        FLASH,
        flash,
        compiles=False,
    ),
    Peer("attention", "FlashAttention-3", "", "flash_attn_interface", FLASH, flash),
    Peer("attention", "FlashAttention-2", "flash-attn", "flash_attn", FLASH, flash),
    Peer("norm", "QuACK", "quack-kernels", "quack", ("rmsnorm",), quack_norm),
    Peer(
        "norm",
        "Liger",
        "liger-kernel",
        "liger_kernel.transformers.functional",
        ("liger_rms_norm",),
        liger_norm,
    ),
    Peer(
        "loss",
        "QuACK",
        "quack-kernels",
        "quack.linear_cross_entropy",
        ("chunked_linear_cross_entropy",),
        quack_loss,
    ),
    Peer(
        "loss",
        "Liger",
        "liger-kernel",
        "liger_kernel.transformers.functional",
        ("liger_fused_linear_cross_entropy",),
        liger_loss,
        waits=True,
    ),
    Peer("mlp", "QuACK", "quack-kernels", "quack.mlp", ("mlp_func",), quack_mlp),
)


def of(operation: str) -> list[Peer]:
    """Return an operation's peers, installed or not."""
    return [peer for peer in PEERS if peer.operation == operation]


def missing(peers: Iterable[Peer] = PEERS) -> str:
    """Return one line that names those that are not installed, and how they are; empty if none."""
    absent = [peer for peer in peers if peer.load() is None]
    if not absent:
        return ""
    names = dict.fromkeys(
        peer.name if peer.distribution else f"{peer.name} ({peer.module}, from source)"
        for peer in absent
    )
    line = f"not installed: {', '.join(names)}"
    wanted = dict.fromkeys(peer.distribution for peer in absent if peer.distribution)
    return f"{line}; pip install {' '.join(wanted)}" if wanted else line
