"""The operations in Triton, by the names that ``model`` calls."""

from kernels.attention.autograd import attention
from kernels.attention.reference import rope_table
from kernels.attention.self_attention import self_attention
from kernels.embed.autograd import embed
from kernels.linear.autograd import linear, linear_add, projections
from kernels.loss.autograd import loss
from kernels.mlp.autograd import mlp
from kernels.norm.mix_norm import mix_norm
from kernels.norm.norm import norm
from kernels.quant.autograd import quant

__all__ = [
    "attention",
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
