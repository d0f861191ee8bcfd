"""Every operation in plain PyTorch: readable, differentiable by autograd, on any device.

Activations are in the compute dtype (bf16 on a GPU, fp32 on a CPU); reductions, softmax and losses
are fp32 inside. Letters in shapes: B batch, T time, C width, H query heads, G key/value heads,
D head dim, M MLP width, V vocabulary.
"""

from kernels.reference.attention import attention, document_bounds, rope_table
from kernels.reference.embed import bigram_hash, embed
from kernels.reference.linear import linear, linear_add, projections
from kernels.reference.loss import loss
from kernels.reference.mlp import mlp
from kernels.reference.norm import mix_norm, norm
from kernels.reference.quant import quant
from kernels.reference.self_attention import self_attention

__all__ = [
    "attention",
    "bigram_hash",
    "document_bounds",
    "embed",
    "linear",
    "linear_add",
    "loss",
    "mix_norm",
    "mlp",
    "norm",
    "projections",
    "quant",
    "rope_table",
    "self_attention",
]
