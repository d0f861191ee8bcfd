"""Other packages by name, with their functions' signatures and plain PyTorch inside.

Signatures are of the releases that ``kernels.peers`` names.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.peers import PEERS


def install(monkeypatch: pytest.MonkeyPatch, package: str, functions: Mapping[str, Any]) -> None:
    """Make ``import package`` give a module of these functions."""
    module = ModuleType(package)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, package, module)


def remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no peer's package importable."""
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer.module, None)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal GQA by its formula."""
    group = q.size(2) // k.size(2)
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.size(-1) ** 0.5
    hidden = torch.ones(q.size(1), q.size(1)).triu(1).bool()
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def whole(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention, which is causal only when told so."""
    assert causal
    return plain(q, k, v)


def by_lengths(q: Tensor, k: Tensor, v: Tensor, causal: bool, **bounds: Any) -> Tensor:
    """Attention of one sequence after the other, checked as FlashAttention needs them."""
    lengths, longest = bounds["cu_seqlens_q"], bounds["max_seqlen_q"]
    assert causal and bounds["cu_seqlens_k"] is lengths and bounds["max_seqlen_k"] == longest
    ends = lengths.tolist()
    assert lengths.dtype == torch.int32 and ends[0] == 0 and ends[-1] == len(q)
    counts = [end - begin for begin, end in pairwise(ends)]
    assert min(counts) >= 0 and max(counts) <= longest
    split = zip(*(x.split(counts) for x in (q, k, v)), strict=True)
    return torch.cat([plain(*(x[None] for x in parts))[0] for parts in split])


def with_log_sums(attention: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    return lambda **given: (attention(**given), None)


def rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def liger_rms_norm(X: Tensor, W: Tensor, eps: float, in_place: bool) -> Tensor:
    assert not in_place
    return F.rms_norm(X, X.shape[-1:], W, eps)


def chunked_linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    assert x.dim() == 2 and target.dim() == 1
    return F.cross_entropy(x @ weight.T, target.long())


def liger_fused_linear_cross_entropy(
    input: Tensor, weight: Tensor, target: Tensor, softcap: float
) -> Tensor:
    assert input.dim() == 2 and target.dtype == torch.int64
    return F.cross_entropy(softcap * torch.tanh(input @ weight.T / softcap), target)


def mlp_func(x: Tensor, weight1: Tensor, weight2: Tensor, activation: str) -> Tensor:
    assert activation == "relu_sq"
    return F.relu(x @ weight1.T).square() @ weight2.T


def standing_in(parameters: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``compute`` behind a signature: it gets by name what was given, defaults are left."""
    signature = inspect.signature(eval(f"lambda {parameters}: None"))

    def call(*args: Any, **kwargs: Any) -> Any:
        return compute(**signature.bind(*args, **kwargs).arguments)

    return call


# Parameters as the releases have them.
FLASH_4 = {
    "flash_attn_func": standing_in(
        "q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, "
        "window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, "
        "deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None, aux_tensors=None, "
        "aux_scalars=None, block_sparse_tensors=None, block_sparse_tensors_bwd=None, "
        "return_lse=False, gather_bwd_recompute_p=False, gather_bwd_token_chunk=None",
        with_log_sums(whole),
    ),
    "flash_attn_varlen_func": standing_in(
        "q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, "
        "max_seqlen_k=None, min_seqlen_k=None, seqused_q=None, seqused_k=None, "
        "gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False, "
        "window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, "
        "deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None, "
        "block_sparse_tensors=None, aux_tensors=None, aux_scalars=None, return_lse=False, "
        "scheduler_metadata=None, seqlen_k_per_split=None, disable_scheduler_metadata=False, "
        "gather_bwd_recompute_p=False, gather_bwd_token_chunk=None",
        with_log_sums(by_lengths),
    ),
}
FLASH_3 = {
    "flash_attn_func": standing_in(
        "q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, "
        "v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, "
        "pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False",
        whole,
    ),
    "flash_attn_varlen_func": standing_in(
        "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, "
        "seqused_k=None, softmax_scale=None, causal=False, qv=None, q_descale=None, "
        "k_descale=None, v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, "
        "num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False",
        by_lengths,
    ),
}
FLASH_2 = {
    "flash_attn_func": standing_in(
        "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), "
        "softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False",
        whole,
    ),
    "flash_attn_varlen_func": standing_in(
        "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, "
        "softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, "
        "deterministic=False, return_attn_probs=False, block_table=None",
        by_lengths,
    ),
}
LIGER = "liger_kernel.transformers.functional"
PACKAGES: dict[str, Mapping[str, Any]] = {
    "flash_attn.cute": FLASH_4,
    "flash_attn_interface": FLASH_3,
    "flash_attn": FLASH_2,
    "quack": {
        "rmsnorm": standing_in(
            "x, weight=None, bias=None, residual=None, out_dtype=None, residual_dtype=None, "
            "eps=1e-6, prenorm=False, weight_offset=0.0",
            rmsnorm,
        )
    },
    "quack.linear_cross_entropy": {
        "chunked_linear_cross_entropy": standing_in(
            "x, weight, target, chunk_size=4096, ignore_index=-100, reduction='mean', tuned=True, "
            "use_scaled_exp=None",
            chunked_linear_cross_entropy,
        )
    },
    "quack.mlp": {
        "mlp_func": standing_in(
            "x, weight1, weight2, activation, bias1=None, bias2=None, fuse_grad_accum=False, "
            "tuned=True, recompute=False, concat_layout=False",
            mlp_func,
        )
    },
    LIGER: {
        "liger_rms_norm": standing_in(
            "X, W, eps, offset=0.0, casting_mode='llama', in_place=True", liger_rms_norm
        ),
        "liger_fused_linear_cross_entropy": standing_in(
            "input, weight, target, bias=None, ce_weight=None, ignore_index=-100, "
            "lse_square_scale=0.0, label_smoothing=0.0, reduction='mean', softcap=None, "
            "return_z_loss=False, accum_dtype=None, use_token_scaling=False, "
            "return_token_accuracy=False, return_predicted_tokens=False, chunk_mem_const=1",
            liger_fused_linear_cross_entropy,
        ),
    },
}
