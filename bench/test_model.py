"""The whole model, forward and backward of one GPU's step, ours against torch.compile."""

import pytest
import torch

from bench.harness import Contest
from bench.sizes import TIME, TOKENS, WINDOWS, random_tokens
from kernels import operations
from model.config import Architecture
from model.gpt import GPT

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 2e-2  # relative, against fp32
MOST_MEMORY = 14 * 2**30
PARAMETERS = 26_411_008  # of the banks: what each token is multiplied with


def make_model(backend: str, dtype: torch.dtype = torch.bfloat16) -> GPT:
    """Preset ``seed`` with its zero-initialised parts made alive."""
    config = Architecture()
    model = GPT(config, operations(backend), dtype=dtype, max_seq_len=TIME, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.to("cuda")


def gradients(model: GPT, tokens: torch.Tensor, forward=None) -> tuple[float, dict]:
    """Loss and every parameter's gradient."""
    weight = torch.tensor(0.1, device="cuda")
    loss, _ = (forward or model)(tokens[:, :-1], tokens[:, 1:], weight)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return loss.item(), found


def check(ours: GPT) -> None:
    """Loss and gradients against fp32, on two windows."""
    tokens = random_tokens(2, TIME + 1)
    exact_loss, exact = gradients(make_model("reference", torch.float32), tokens)
    loss, found = gradients(ours, tokens)
    assert abs(loss - exact_loss) <= LOSS_TOLERANCE * exact_loss, f"loss {loss}, fp32 {exact_loss}"
    for name, gradient in found.items():
        error = (gradient - exact[name]).norm() / exact[name].norm()
        assert error <= GRADIENT_TOLERANCE, f"gradient of {name} is off by {error:.2e}"


@pytest.mark.parametrize("backend", ["kernels"])
def test_model(contest, backend):
    ours, peer = make_model(backend), make_model("reference")
    compiled = torch.compile(peer, dynamic=False, fullgraph=True)
    tokens = random_tokens(WINDOWS, TIME + 1)
    weight = torch.tensor(0.1, device="cuda")

    def call(forward, model):
        def run() -> None:
            forward(tokens[:, :-1], tokens[:, 1:], weight)[0].backward()
            for parameter in model.parameters():
                parameter.grad = None

        return run

    contest(
        Contest(
            name="model, forward + backward",
            ours=call(ours, ours),
            peers={"compiled": call(compiled, peer)},
            check=lambda: check(ours),
            bytes_moved=0,
            flops=6 * TOKENS * PARAMETERS,
        )
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call(ours, ours)()
    peak = torch.cuda.max_memory_allocated()
    assert peak <= MOST_MEMORY, f"{peak / 2**30:.1f} GiB"
