"""The size that kernels are timed at: one GPU's step of preset ``seed``, 48 windows of 2,048."""

import torch
from torch import Tensor

WINDOWS, TIME, WIDTH = 48, 2048, 512
QUERY_HEADS, KEY_HEADS, HEAD_DIM, ROPE_DIMS = 8, 4, 64, 16
MLP_WIDTH, VOCABULARY, MTP_HEADS = 1536, 1024, 2
TOKENS = WINDOWS * TIME
SMALL_WINDOWS = 2  # for checks against fp64
EPS = 1e-6
BF16 = 2  # bytes


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    """Return random numbers on the GPU, because zeros would hide errors and run faster."""
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def random_tokens(*shape: int) -> Tensor:
    """Return random token ids, int32."""
    return torch.randint(VOCABULARY, shape, device="cuda", dtype=torch.int32)
