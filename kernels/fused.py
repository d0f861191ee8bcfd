"""The operations in Triton, by the names that ``model`` calls."""

from kernels.attention import attention
from kernels.embed import embed
from kernels.linear import linear, linear_add, projections
from kernels.loss import loss
from kernels.mix_norm import mix_norm
from kernels.mlp import mlp
from kernels.norm import norm
from kernels.quant import quant
from kernels.reference.attention import rope_table
from kernels.self_attention import self_attention

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
