"""On a GPU: loops, lanes, documents and windows on the kernels in bf16 are near those in fp32."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness.operation import PooledErrors
from kernels import operations
from model.config import Architecture
from model.gpt import GPT

pytestmark = pytest.mark.gpu
NETWORK: dict[str, Any] = {
    "vocab_size": 512,
    "num_layers": 8,
    "model_dim": 256,
    "num_heads": 4,
    "num_kv_heads": 2,
    "xsa_last_n": 3,
    "ve_layers": [6, 7],
    "ve_dim": 64,
    "bigram_vocab_size": 256,
    "bigram_dim": 64,
}
VISITS: dict[str, dict[str, Any]] = {
    "default": {},
    "layers 3 to 5 three times": {"loop_layers": [3, 4, 5], "num_loops": 2},
    "lanes": {"parallel_from": 5},
    "documents": {"document_mask": True},
    "windows": {"window": 100},
    "all, with gates and value residual": {
        "loop_layers": [2, 3],
        "num_loops": 1,
        "parallel_from": 6,
        "document_mask": True,
        "window": 77,
        "gated_attention": True,
        "value_residual": True,
    },
    "frontier": {
        "xsa_last_n": 8,
        "bigram_vocab_size": 0,
        "ve_enabled": False,
        "mtp_num_heads": 0,
        "loop_layers": [2, 3],
        "num_loops": 1,
        "parallel_from": 6,
        "document_mask": True,
        "window": 77,
        "gate_window": 12,
        "smear_window": 12,
        "skip_gates": True,
    },
}
LENGTH, WINDOWS, DRAWS = 509, 4, 8
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 2e-2  # relative, against fp32
SHARE_OF_BF16 = 1.5  # of the reference's error in bf16, where that is more


def make(changes: dict[str, Any], backend: str, dtype: torch.dtype) -> GPT:
    config = Architecture.model_validate(NETWORK | changes)
    model = GPT(config, operations(backend), dtype=dtype, max_seq_len=LENGTH, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.to("cuda")


def draw(seed: int) -> Tensor:
    """Of packed documents of 60 tokens on average."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 512, (WINDOWS, LENGTH + 1), generator=generator, dtype=torch.int32)
    tokens[torch.rand(tokens.shape, generator=generator) < 1 / 60] = 1
    return tokens.cuda()


def mtp_weight(model: GPT) -> Tensor:
    """Of the MTP heads, or of the targets after the next if there are none."""
    return torch.tensor(0.1 if model.config.mtp_num_heads else [0.5, 0.25], device="cuda")


def gradients(model: GPT, tokens: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    weight = mtp_weight(model)
    loss, _ = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mtp_weight=weight)
    loss.backward()
    return loss.item(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("changes", VISITS.values(), ids=VISITS.keys())
def test_loss_and_every_gradient_are_near_those_in_fp32(changes: dict[str, Any]) -> None:
    """Pooled over draws, because of a scalar parameter one draw's error is luck."""
    exact = make(changes, "reference", torch.float32)
    ours, peer = (make(changes, b, torch.bfloat16) for b in ("kernels", "reference"))
    errors, peer_errors = PooledErrors(), PooledErrors()
    names: set[str] = set()
    for seed in range(DRAWS):
        tokens = draw(seed)
        exact_loss, wanted = gradients(exact, tokens)
        loss, found = gradients(ours, tokens)
        assert abs(loss - exact_loss) <= LOSS_TOLERANCE * exact_loss
        assert found.keys() == wanted.keys()
        errors.add(found, wanted)
        peer_errors.add(gradients(peer, tokens)[1], wanted)
        names |= wanted.keys()
    allowed = {n: max(GRADIENT_TOLERANCE, SHARE_OF_BF16 * peer_errors[n]) for n in names}
    far = {name: f"{errors[name]:.2e}" for name in names if not errors[name] <= allowed[name]}
    assert far == {}


@pytest.mark.parametrize("changes", VISITS.values(), ids=VISITS.keys())
def test_a_replay_has_the_bits_of_the_launches(changes: dict[str, Any]) -> None:
    """Bounds are made inside the graph, from the tokens that it reads."""
    model = make(changes, "kernels", torch.bfloat16)
    static = draw(1)[:, :-1].contiguous()
    targets, weight = static.clone(), mtp_weight(model)
    parameters = list(model.parameters())

    def step() -> tuple[Tensor, ...]:
        loss, _ = model(static, targets, mtp_weight=weight)
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (1, 2, 3):
        static.copy_(draw(seed)[:, :-1])
        graph.replay()
        replayed = [tensor.clone() for tensor in captured]
        with torch.cuda.stream(side):
            side.wait_stream(torch.cuda.current_stream())
            launched = step()
        torch.cuda.current_stream().wait_stream(side)
        assert all(map(torch.equal, replayed, launched))
