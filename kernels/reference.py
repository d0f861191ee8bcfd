"""Every operation in plain PyTorch: readable, differentiable by autograd, on any device.

Activations are in the compute dtype (bf16 on a GPU, fp32 on a CPU); reductions, softmax and losses
are fp32 inside. Letters in shapes: B batch, T time, C width, H query heads, G key/value heads,
D head dim, M MLP width, V vocabulary.
"""

from kernels.attention.reference import attention, document_bounds, rope_table
from kernels.attention.reference_self_attention import self_attention
from kernels.embed.reference import bigram_hash, embed
from kernels.linear.reference import linear, linear_add, projections
from kernels.loss.reference import loss
from kernels.mlp.reference import mlp
from kernels.norm.reference import mix_norm, norm
from kernels.quant.reference import quant

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
