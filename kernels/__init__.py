"""Operations on tensors, one a file. They know nothing of GPT.

``operations(backend)`` is the only door: ``model`` calls what it returns, by name, and never asks
which backend it got. ``kernels.reference`` is the plain PyTorch twin of every operation, the CPU
path and the tests' oracle.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType

from torch import Tensor

from kernels import reference
from kernels.attention.peers import attention_by

BACKENDS = ("reference", "compiled", "kernels")


def operations(backend: str, attention: str = "own") -> ModuleType:
    """The namespace of operations of ``backend``; ``kernels`` are those in Triton.

    ``compiled`` runs the reference operations under torch.compile, which whoever owns the model
    applies to the whole of it: a compiler that sees one operation at a time can fuse nothing.

    Args:
        backend: one of ``BACKENDS``.
        attention: "own", or another maker's (``kernels.attention.peers``) with the reference's
            surroundings in place of the backend's.

    Raises:
        ValueError: ``backend`` or ``attention`` is none of those there are.
        ModuleNotFoundError: the attention's package is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
    own = reference
    if backend == "kernels":
        from kernels import fused  # needs Triton, which a CPU can do without

        own = fused
    return own if attention == "own" else with_attention(own, attention)


def with_attention(own: ModuleType, attention: str) -> ModuleType:
    """A copy of the namespace in which another attention does the softmax and its products."""
    swapped = ModuleType(f"{own.__name__} with {attention} attention")
    vars(swapped).update({name: getattr(own, name) for name in own.__all__})
    attend = partial(reference.attention, attend=attention_by(attention))
    vars(swapped)["attention"] = attend
    vars(swapped)["self_attention"] = self_attention_of(own.projections, attend)
    return swapped


def self_attention_of(
    projections: Callable[..., tuple[Tensor, ...]], attention: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """``self_attention`` by two operations, for a namespace that changes one of them."""
    return partial(reference.self_attention, projections=projections, attention=attention)
