"""Operations on tensors, one a file. They know nothing of GPT.

``operations(backend)`` is the only door: ``model`` calls what it returns, by name, and never asks
which backend it got. ``kernels.reference`` is the plain PyTorch twin of every operation, the CPU
path and the tests' oracle.
"""

from types import ModuleType

from kernels import reference

BACKENDS = ("reference", "compiled", "kernels")


def operations(backend: str) -> ModuleType:
    """The namespace of operations of ``backend``; ``kernels`` are those in Triton.

    ``compiled`` runs the reference operations under torch.compile, which whoever owns the model
    applies to the whole of it: a compiler that sees one operation at a time can fuse nothing.

    Raises:
        ValueError: ``backend`` is not one of ``BACKENDS``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
    if backend == "kernels":
        from kernels import fused  # needs Triton, which a CPU can do without

        return fused
    return reference
