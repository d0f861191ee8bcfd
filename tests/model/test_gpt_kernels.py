"""The whole network on the Triton operations is the network on the reference ones."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import operations
from model.config import Architecture
from model.gpt import GPT
from tests.kernels.tools.compare import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = {
    "vocab_size": 64,
    "num_layers": 4,
    "model_dim": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 2.0,
    "rope_dims": 8,
    "xsa_last_n": 2,
    "ve_layers": [3],
    "ve_dim": 16,
    "bigram_vocab_size": 32,
    "bigram_dim": 16,
}
OPTIONS = {"gated_attention": True, "value_residual": True, "tie_embeddings": False}
VISITS = {"loop_layers": [1], "num_loops": 1, "parallel_from": 3}
VISITS |= {"document_mask": True, "window": 6}
GATES = {"gate_window": 12, "smear_window": 12, "skip_gates": True, "mtp_num_heads": 0}
TOLERANCE = 2e-5  # relative by norm: sums of a few hundred fp32 roundings, in another order


def make(backend: str, changes: dict) -> GPT:
    config = Architecture.model_validate(SMALL | changes)
    ops = operations(backend)
    model = GPT(config, ops, dtype=torch.float32, max_seq_len=24, seed=0, fake_step_floor=0.01)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(DEVICE)


def run(model: GPT, tokens: torch.Tensor, qat: float) -> tuple[torch.Tensor, torch.Tensor, dict]:
    levers = {
        "mtp_weight": torch.tensor(
            0.3 if model.config.mtp_num_heads else [0.5, 0.2], device=DEVICE
        ),
        "qat": torch.tensor(qat, device=DEVICE),
        "target_weight": torch.linspace(0.5, 1.5, 64, device=DEVICE),
    }
    loss, nats = model(tokens[:, :-1], tokens[:, 1:], **levers)
    loss.backward()
    return loss.detach(), nats, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "qat"),
    [({}, 0.0), (OPTIONS, 1.0), (VISITS | GATES, 0.0)],
    ids=["default", "all options, int6-faked", "loop, lanes, documents, windows and gates"],
)
def test_loss_nats_and_every_gradient(changes, qat):
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 64, (2, 22), generator=generator).int().to(DEVICE)
    tokens[0, 9] = tokens[1, 3:5] = 1  # BOS
    loss, nats, gradients = run(make("kernels", changes), tokens, qat)
    expected_loss, expected_nats, expected = run(make("reference", changes), tokens, qat)
    assert relative_error(loss, expected_loss) < TOLERANCE
    assert relative_error(nats, expected_nats) < TOLERANCE
    for name, gradient in expected.items():
        assert gradients[name] is not None, name
        assert relative_error(gradients[name], gradient) < TOLERANCE, name


class Calls(TorchDispatchMode):
    """Keeps the shapes of what PyTorch's own element-wise passes and sums make."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("add", "add_", "clone", "copy_", "mul", "sum"):
            self.shapes.append((name, tuple(result.shape)))
        return result


LOOP = {"num_layers": 2, "ve_layers": [1], "loop_layers": [0], "num_loops": 2}
LOOP |= {"document_mask": True, "window": 6, **GATES}


@pytest.mark.parametrize("changes", [{}, LOOP], ids=["default", "loop, documents and windows"])
def test_nothing_as_large_as_the_stream_is_added_or_copied_between_kernels(changes):
    """Each would be a pass over memory; all that meets, meets in a kernel or a product."""
    model = make("kernels", changes)
    tokens = torch.randint(0, 64, (2, 21), device=DEVICE).int()
    with Calls() as calls:
        model(tokens[:, :-1], tokens[:, 1:])[0].backward()
    rows = ((2, 20), (40,))  # windows by tokens, and both in one
    bounds = (2, 2, 20)  # made from tokens, once a forward pass
    large = [call for call in calls.shapes if call[1][:-1] in rows and call[1] != bounds]
    assert large == []


def test_score_needs_no_gradients():
    tokens = torch.randint(0, 64, (2, 21), device=DEVICE).int()
    with torch.inference_mode():
        ours, theirs = (
            make(backend, {}).score(tokens[:, :-1], tokens[:, -5:])
            for backend in ("kernels", "reference")
        )
    assert ours.shape == (2, 5)
    assert relative_error(ours, theirs) < TOLERANCE
