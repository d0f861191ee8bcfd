"""Operations on tensors, a folder for each family. They are independent of GPT.

Each folder's ``__init__`` defines the meaning of its operations. ``reference.py`` computes them in
plain PyTorch, differentiable by autograd, on any device. ``operations(backend)`` returns all
operations of a backend.

Activations are in the compute dtype (bf16 on a GPU, fp32 on a CPU); reductions, softmax and losses
are fp32 inside. Letters in shapes: B batch, T time, C width, H query heads, G key/value heads,
D head dim, E table width, M MLP width, V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import partial

from kernels.attention import Attention, CachedAttention, RopeTable, SelfAttention
from kernels.embed import Embed
from kernels.lanes import Lanes
from kernels.linear import Linear, LinearAdd, Projections
from kernels.loss import Loss
from kernels.mlp import Mlp
from kernels.norm import MixNorm, Norm
from kernels.quant import Quant

BACKENDS = ("reference", "compiled", "kernels")


@dataclass(frozen=True)
class Operations:
    """The operations of a network in one backend."""

    embed: Embed
    mix_norm: MixNorm
    norm: Norm
    projections: Projections
    attention: Attention
    self_attention: SelfAttention
    cached_attention: CachedAttention
    linear: Linear
    linear_add: LinearAdd
    mlp: Mlp
    lanes: Lanes
    loss: Loss
    quant: Quant
    rope_table: RopeTable


def operations(backend: str, attention: str = "own") -> Operations:
    """Return the operations of ``backend``; ``kernels`` has those in Triton.

    ``compiled`` has the reference operations. The owner of a model applies torch.compile to the
    whole model, because a compiler that sees one operation at a time can fuse nothing.

    Args:
        backend: one of ``BACKENDS``.
        attention: "own" for the backend's, or a name of ``kernels.attention.peers``. A peer
            replaces the softmax and its products; norm, rope, XSA and gate are then the
            reference's.

    Raises:
        ValueError: ``backend`` or ``attention`` is unknown.
        ModuleNotFoundError: the attention's package is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
    found = _triton() if backend == "kernels" else _reference()
    return found if attention == "own" else _with_peer(found, attention, backend == "compiled")


def _reference() -> Operations:
    from kernels.attention.reference import (
        attention,
        cached_attention,
        rope_table,
        self_attention,
    )
    from kernels.embed.reference import embed
    from kernels.lanes.reference import lanes
    from kernels.linear.reference import linear, linear_add, projections
    from kernels.loss.reference import loss
    from kernels.mlp.reference import mlp
    from kernels.norm.reference import mix_norm, norm
    from kernels.quant.reference import quant

    return Operations(
        embed=embed,
        mix_norm=mix_norm,
        norm=norm,
        projections=projections,
        attention=attention,
        self_attention=self_attention,
        cached_attention=cached_attention,
        linear=linear,
        linear_add=linear_add,
        mlp=mlp,
        lanes=lanes,
        loss=loss,
        quant=quant,
        rope_table=rope_table,
    )


def _triton() -> Operations:
    """Import the Triton operations here, because a CPU does not need Triton."""
    from kernels.attention.autograd import attention, cached_attention
    from kernels.attention.reference import rope_table
    from kernels.attention.self_attention import self_attention
    from kernels.embed.autograd import embed
    from kernels.lanes.autograd import lanes
    from kernels.linear.autograd import linear, linear_add, projections
    from kernels.loss.autograd import loss
    from kernels.mlp.autograd import mlp
    from kernels.norm.mix_norm import mix_norm
    from kernels.norm.norm import norm
    from kernels.quant.autograd import quant

    return Operations(
        embed=embed,
        mix_norm=mix_norm,
        norm=norm,
        projections=projections,
        attention=attention,
        self_attention=self_attention,
        cached_attention=cached_attention,
        linear=linear,
        linear_add=linear_add,
        mlp=mlp,
        lanes=lanes,
        loss=loss,
        quant=quant,
        rope_table=rope_table,
    )


def _with_peer(found: Operations, attention: str, compiled: bool) -> Operations:
    """Replace the attention with the reference's around another package's softmax."""
    from kernels.attention import reference
    from kernels.attention.peers import attention_by

    attend = partial(reference.attention, attend=attention_by(attention, compiled))
    composed = reference.compose(found, attend)
    return replace(found, attention=attend, self_attention=composed)
