"""A network whose MLPs are in fp8, on the kernels: near the reference, which rounds as they do."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from tests.kernels.tools.twins import DEVICE

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "num_layers": 3,
    "model_dim": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "mlp_mult": 2.0,
    "rope_dims": 8,
    "parallel_from": 2,
    "xsa_last_n": 1,
    "bigram_vocab_size": 0,
    "ve_enabled": False,
    "mtp_num_heads": 0,
}
REAL = SIZES | {
    "vocab_size": 512,
    "model_dim": 256,
    "num_heads": 4,
    "num_kv_heads": 2,
    "rope_dims": 16,
}


def outcome(
    backend: str, sizes: dict[str, Any], dtype: torch.dtype, length: int, precision: str = "fp8"
) -> dict[str, Tensor]:
    """Loss and gradients of a network without zero weights, the same for all backends."""
    config = Architecture(**sizes)
    model = GPT(config, operations(backend), dtype=dtype, max_seq_len=length, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.to(DEVICE)
    tokens = torch.randint(config.vocab_size, (2, length + 1), generator=generator).int().to(DEVICE)
    loss, _ = model(tokens[:, :-1], tokens[:, 1:], precision=precision)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | gradients


def error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest of all gradients, relative by norm."""
    assert found.keys() == wanted.keys()
    return max(float((found[n] - w).norm() / w.norm().clamp_min(1e-3)) for n, w in wanted.items())


def test_the_interpreted_kernels_compute_the_reference() -> None:
    if DEVICE != "cpu":
        pytest.skip("a GPU's tensor cores add products of e4m3 in fewer bits")
    wanted = outcome("reference", SIZES, torch.float32, 9)
    found = outcome("kernels", SIZES, torch.float32, 9)
    native = outcome("reference", SIZES, torch.float32, 9, "native")
    assert error(found, wanted) < 2e-3 < error(native, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [REAL, REAL | {"mlp_mult": 3.0625}], ids=["Gluon", "Triton"])
def test_the_kernels_in_bf16_are_as_near_as_the_reference(sizes: dict[str, Any]) -> None:
    """Equal runs give equal bits. Errors of parameters of few numbers are luck in one draw."""
    exact = outcome("reference", sizes, torch.float32, 509)
    theirs = outcome("reference", sizes, torch.bfloat16, 509)
    ours = outcome("kernels", sizes, torch.bfloat16, 509)
    again = outcome("kernels", sizes, torch.bfloat16, 509)
    assert abs(float(ours["loss"] / exact["loss"]) - 1) < 5e-3
    for name, wanted in exact.items():
        assert torch.equal(ours[name], again[name]), name
        if wanted.numel() >= 64:
            of_theirs = error({name: theirs[name]}, {name: wanted})
            assert error({name: ours[name]}, {name: wanted}) < max(2.0 * of_theirs, 5e-2), name
