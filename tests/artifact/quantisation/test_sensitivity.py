"""Sensitivities against squared gradients by each output, token by token."""

import subprocess
import sys

import pytest
import torch

from artifact.quantisation.hessians import collect
from artifact.quantisation.steps import ROWS
from files import PROJECT
from model.gpt import GPT
from model.hooks import Site
from tests.model.small import PARTS, architecture, perturbed

BANKS = {
    "qo_bank": ["q", "o"],
    "kv_bank": ["k", "v"],
    "up_bank": ["up"],
    "down_bank": ["down"],
}


class Probes:
    """Adds zeros to each product, whose gradients are those of the product."""

    matrices = ("q", "k", "v", "o", "up", "down")
    replaces = True

    def __init__(self) -> None:
        self.zeros: dict[Site, torch.Tensor] = {}

    def __call__(self, site: Site, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.zeros[site] = torch.zeros_like(y, requires_grad=True)
        return y + self.zeros[site]


def some_tokens(model: GPT, rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (rows, 12), generator=generator).int()


@pytest.mark.parametrize("part", ["everything", "loop and lanes", "frontier"])
def test_a_rows_sensitivity_is_the_mean_square_of_its_gradients(part: str) -> None:
    model = perturbed(architecture(part))
    tokens = some_tokens(model)
    found = collect(model, [tokens], by_loss=True)
    probes = Probes()
    hidden = model.hidden(tokens, hook=probes)
    logits = hidden @ model.output_head().values.T
    cap = model.config.logit_softcap
    shares = (cap * torch.tanh(logits / cap)).log_softmax(-1)
    nats = -shares[:, :-1].gather(-1, tokens[:, 1:, None].long())
    gradients = dict(
        zip(probes.zeros, torch.autograd.grad(nats.sum(), list(probes.zeros.values())), strict=True)
    )
    for name, matrices in BANKS.items():
        expected = [
            torch.stack(
                [
                    gradient.square().flatten(0, 1).mean(0)
                    for site, gradient in gradients.items()
                    if (site.matrix, site.layer) == (matrix, layer)
                ]
            ).mean(0)
            for matrix in matrices
            for layer in range(model.config.num_layers)
        ]
        torch.testing.assert_close(found[name + ROWS], torch.stack(expected), rtol=1e-3, atol=1e-9)


def test_sensitivities_import_no_symbolic_shapes():
    """Where autograd is passed a gradient it imports SymPy, half a second of a run's startup."""
    program = (
        "import sys, torch\n"
        "from artifact.quantisation.hessians import collect\n"
        "from tests.small import small_model\n"
        "collect(small_model(0.1), [torch.ones(2, 16, dtype=torch.int32)], by_loss=True)\n"
        "print('sympy' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout == "False\n"


def of_the_head(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Return (V,) mean squared gradients by the logits, each token in turn being the target."""
    with torch.no_grad():
        hidden = model.hidden(tokens)[:, :-1].flatten(0, 1)
    logits = (hidden @ model.tok_emb.T).detach().requires_grad_()
    cap, found = model.config.logit_softcap, torch.zeros(logits.size(-1))
    shares = (cap * torch.tanh(logits / cap)).log_softmax(-1)
    for token in range(logits.size(-1)):
        (gradient,) = torch.autograd.grad(shares[:, token].sum(), logits, retain_graph=True)
        found += (shares[:, token, None].detach().exp() * gradient.square()).mean(0)
    return found


def of_the_inputs(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Return (V,) mean squared gradients by the rows that are the network's inputs."""
    hidden = model.hidden(tokens)
    cap = model.config.logit_softcap
    logits = cap * torch.tanh(hidden[:, :-1] @ model.tok_emb.detach().T / cap)
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten().long(), reduction="sum"
    )
    squares = torch.autograd.grad(nats, model.tok_emb)[0].square().mean(-1)
    return (squares + squares.sum() / tokens.numel() / 2) / tokens.numel()


def test_a_tied_embedding_minds_errors_as_head_and_as_input() -> None:
    """The trace of each row's curvature is the head's and the inputs' together."""
    model = perturbed(architecture())
    tokens = some_tokens(model)
    plain = collect(model, [tokens])["tok_emb"][0]
    found = collect(model, [tokens], by_loss=True)
    hessian, rows = found["tok_emb"][0], found["tok_emb" + ROWS][0]
    inputs = of_the_inputs(model, tokens) * tokens.numel() * len(plain)
    assert inputs.max() > 4 * inputs.min() > 0
    expected = of_the_head(model, tokens) * plain.trace() + inputs
    torch.testing.assert_close(rows * hessian.trace(), expected, rtol=1e-3, atol=1e-9)
    more = hessian - plain
    torch.testing.assert_close(more, more[0, 0] * torch.eye(len(more)), rtol=1e-3, atol=1e-6)
    share = rows.mean() * more.trace() / expected.mean()
    assert 0.9 < share / (inputs.mean() / expected.mean()) < 1.1


def test_nothing_of_the_model_changes() -> None:
    model = perturbed(architecture())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = collect(model, [some_tokens(model)])
    found = collect(model, [some_tokens(model)], by_loss=True)
    assert all(torch.equal(plain[name], found[name]) for name in plain if name != "tok_emb")
    assert found.keys() == plain.keys() | {name + ROWS for name in plain}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None


def test_rows_of_a_batch_are_cut_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.quantisation.sensitivity.LENGTH", 4)
    monkeypatch.setattr("artifact.quantisation.sensitivity.ROWS", 5)
    model = perturbed(architecture())
    tokens = some_tokens(model)
    windows = tokens.view(-1, 4)[:5]
    found = collect(model, [tokens], by_loss=True)
    expected = collect(model, [windows], by_loss=True)
    for name in ("up_bank", "tok_emb"):
        torch.testing.assert_close(found[name + ROWS], expected[name + ROWS])


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_a_gpu_finds_nearly_the_same_in_bf16(part: str) -> None:
    model = perturbed(architecture(part))
    tokens = some_tokens(model, rows=64)
    expected = collect(model, [tokens], by_loss=True)
    model = model.cuda()
    model.dtype = torch.bfloat16
    found = collect(model, [tokens.cuda()], by_loss=True)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        difference = (found[name].cpu() - wanted).norm() / wanted.norm()
        assert difference < 0.1, (name, difference)
