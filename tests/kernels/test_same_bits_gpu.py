"""Same inputs, same bits, however often: what differs is read or written too early.

A race of two of a kernel's warps may show in one launch of a hundred, so these are many launches.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.attention.reference import rope_table, window_bounds
from kernels.attention.self_attention import self_attention
from model.gpt import GPT
from settings.load import load_settings
from tests.kernels.tools.compare import random_tensors

pytestmark = pytest.mark.gpu
LAUNCHES, STEPS = 300, 60
B, T, C, H, G, D = 16, 2048, 512, 8, 4, 64


def count_differing(make: Callable[[], dict[str, Tensor]], times: int) -> dict[str, int]:
    """How often each tensor was not what it was at first, where it ever was."""
    first = {name: tensor.clone() for name, tensor in make().items()}
    differing = dict.fromkeys(first, 0)
    for _ in range(times):
        for name, tensor in make().items():
            differing[name] += not torch.equal(tensor, first[name])
    return {name: times for name, times in differing.items() if times}


@pytest.mark.parametrize(("xsa", "window"), [(False, None), (True, None), (True, 128)])
def test_attention(xsa: bool, window: int | None):
    device = torch.device("cuda")
    drawn = random_tensors(1, x=(B, T, C), weight=((H + 2 * G) * D, C), gain=(H,), dy=(B, T, H, D))
    drawn["weight"] /= C**0.5
    gain = drawn.pop("gain").to(device, torch.float32).requires_grad_()
    x, weight, dy = (drawn[name].to(device, torch.bfloat16) for name in ("x", "weight", "dy"))
    rope = rope_table(T, 16, 1e4, device)
    bounds = window and window_bounds(torch.zeros(B, T, device=device), window)
    options: dict[str, Any] = {"kv_heads": G, "rope": rope, "eps": 1e-6, "xsa": xsa}
    options |= {"documents": bounds, "window": window}
    given: dict[str, Any] = {
        "x": x.requires_grad_(),
        "weight": weight.requires_grad_(),
        "gain": gain,
    }

    def make() -> dict[str, Tensor]:
        y = self_attention(**given, **options)
        gradients = torch.autograd.grad(y, list(given.values()), dy)
        return {"y": y.detach(), **dict(zip(given, gradients, strict=True))}

    assert count_differing(make, LAUNCHES) == {}


def test_a_forward_and_backward_pass():
    settings = load_settings(["--preset", "sprint"], {})
    network = GPT(
        settings.architecture(),
        operations("kernels"),
        dtype=torch.bfloat16,
        max_seq_len=T,
        seed=1,
    ).cuda()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # some of which begin at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    tokens, targets = torch.randint(1024, (2, B, T), dtype=torch.int32, device="cuda")
    mtp_weight, qat = torch.tensor([0.1, 0.0], device="cuda")

    def make() -> dict[str, Tensor]:
        network.zero_grad()
        loss, nats = network(tokens, targets, mtp_weight=mtp_weight, qat=qat)
        loss.backward()
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        return {"nats": nats.detach(), **gradients}

    assert count_differing(make, STEPS) == {}
