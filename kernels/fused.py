"""The operations in Triton, by the names that ``model`` calls."""

from kernels.attention import attention
from kernels.embed import embed
from kernels.loss import loss
from kernels.mlp import linear, mlp
from kernels.norm import norm
from kernels.quant import quant
from kernels.reference.attention import rope_table

__all__ = ["attention", "embed", "linear", "loss", "mlp", "norm", "quant", "rope_table"]
