"""Small networks with every part of preset ``seed``, and tokens for them."""

import torch
from torch import Tensor

from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from tests.model.oracle import edges_of

VOCAB, MAX_LENGTH = 50, 33

# Every part, each small enough for a loop: an odd number of layers, GQA in groups of two, rotary
# on half of a head, and a softcap and an eps that are felt.
SMALL: dict[str, object] = {
    "vocab_size": VOCAB,
    "num_layers": 5,
    "model_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 1.5,
    "rope_dims": 4,
    "rope_base": 100.0,
    "xsa_last_n": 2,
    "norm_eps": 1e-3,
    "bigram_vocab_size": 37,
    "bigram_dim": 6,
    "ve_dim": 5,
    "ve_layers": [2, 4],
    "logit_softcap": 4.0,
}

PARTS: dict[str, dict[str, object]] = {
    "everything": {},
    "1 layer": {"num_layers": 1, "xsa_last_n": 1, "ve_layers": [0]},
    "2 layers": {"num_layers": 2, "ve_layers": [1]},
    "3 layers": {"num_layers": 3, "ve_layers": [1]},
    "6 layers": {"num_layers": 6},
    "7 layers": {"num_layers": 7},
    "no LN scale": {"ln_scale": False},
    "no rotary": {"rope_dims": 0},
    "rotary on all dims": {"rope_dims": 8},
    "GQA group 1": {"num_kv_heads": 4},
    "GQA group 4": {"num_kv_heads": 1},
    "no XSA": {"xsa_last_n": 0},
    "XSA everywhere": {"xsa_last_n": 5},
    "no bigram": {"bigram_vocab_size": 0},
    "edges": {"bigram_rows": "information"},
    "edges and hashed rows": {"bigram_rows": "mixed", "smear_window": 5},
    "SmearGate leaking": {"smear_bos_mask": False},
    "BOS of another id": {"bos_id": 7},
    "no value embeddings": {"ve_enabled": False},
    "value embeddings in no layer": {"ve_layers": []},
    "value embeddings out of order": {"ve_layers": [3, 0]},
    "ReLU^2": {"leaky_slope": 0.0},
    "square": {"leaky_slope": 1.0},
    "attention gate": {"gated_attention": True},
    "gate of a window": {"gate_window": 3},
    "SmearGate of a window": {"smear_window": 5},
    "SmearGate of a window, leaking": {"smear_window": 32, "smear_bos_mask": False},
    "skip gates": {"skip_gates": True},
    "skip gates of 2 layers": {"num_layers": 2, "ve_layers": [1], "skip_gates": True},
    "skip gates of 1 layer": {
        "num_layers": 1,
        "xsa_last_n": 1,
        "ve_layers": [0],
        "skip_gates": True,
    },
    "value residual": {"value_residual": True},
    "value residual with layer 0's value embedding": {"value_residual": True, "ve_layers": [0, 3]},
    "untied head": {"tie_embeddings": False},
    "no MTP head": {"mtp_num_heads": 0},
    "1 MTP head": {"mtp_num_heads": 1},
    "loop": {"loop_layers": [1, 2], "num_loops": 2},
    "loop from layer 0 with value residual": {
        "loop_layers": [0, 1],
        "num_loops": 1,
        "value_residual": True,
    },
    "loop of the last layer": {"loop_layers": [4], "num_loops": 1},
    "lanes": {"parallel_from": 3},
    "lanes of the last layer": {"parallel_from": 4, "gated_attention": True},
    "loop and lanes": {
        "num_layers": 6,
        "loop_layers": [1, 2],
        "num_loops": 1,
        "parallel_from": 4,
        "window": 4,
        "value_residual": True,
    },
    "frontier": {
        "num_layers": 8,
        "xsa_last_n": 8,
        "bigram_vocab_size": 0,
        "ve_enabled": False,
        "mtp_num_heads": 0,
        "loop_layers": [2, 3],
        "num_loops": 2,
        "parallel_from": 6,
        "document_mask": True,
        "gate_window": 12,
        "smear_window": 12,
        "skip_gates": True,
    },
    "documents": {"document_mask": True},
    "window": {"window": 3},
    "window of one": {"window": 1},
    "window beyond the length": {"window": 40},
    "loop, documents, window and gate": {
        "loop_layers": [3],
        "num_loops": 2,
        "document_mask": True,
        "window": 4,
        "near_window": 2,
        "near_layers": [1, 3],
        "gated_attention": True,
    },
    "all options": {"gated_attention": True, "value_residual": True, "tie_embeddings": False},
}


def architecture(part: str = "everything", **changes: object) -> Architecture:
    return Architecture.model_validate(SMALL | PARTS[part] | changes)


def fresh(
    config: Architecture,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
    embedding_gain: Tensor | None = None,
) -> GPT:
    return GPT(
        config,
        operations("reference"),
        dtype=dtype,
        max_seq_len=MAX_LENGTH,
        seed=seed,
        embedding_gain=embedding_gain,
        edges=edges_of(config),
    )


@torch.no_grad()
def perturbed(config: Architecture, *, dtype: torch.dtype = torch.float32) -> GPT:
    """A network no parameter of which is at its initial value, where zeros would hide much."""
    model = fresh(config, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def perturbed_fp64(config: Architecture) -> GPT:
    """The same in fp64 throughout; only the loss is fp32 inside."""
    return perturbed(config, dtype=torch.float64).double()


def random_tokens(length: int, *, batch: int = 2, seed: int = 3) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of packed documents: BOS 1 at the start, inside and twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (batch, length + 1), generator=generator, dtype=torch.int32)
    tokens[0, 0] = 1
    tokens[:, length // 2 :: 4] = 1
    tokens[-1, length // 2 + 1 : length // 2 + 2] = 1
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
