"""The whole network of a preset on a GPU, ``seed`` by default, and a comparison with fp32."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.harness.operation import PooledErrors
from bench.harness.sizes import TIME, random_tokens
from kernels import operations
from model.config import Architecture
from model.gpt import GPT

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 2e-2  # relative, against fp32
DRAWS, CHECKED_WINDOWS = 8, 2
MTP_WEIGHT = 0.1
SEED = Architecture()


def make_model(
    backend: str,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "own",
    config: Architecture = SEED,
    length: int = TIME,
) -> GPT:
    """Return a network for windows of ``length``, with random numbers where it has zeros."""
    model = GPT(config, operations(backend, attention), dtype=dtype, max_seq_len=length, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.to("cuda")


def step(
    model: GPT, forward: Callable, tokens: Tensor, further: tuple[float, ...] = ()
) -> Callable[[], None]:
    """Return a call of forward and backward; ``forward`` is the model or its compiled form.

    ``further`` are weights of the targets after the next, instead of MTP heads.
    """
    weight = torch.tensor(further or MTP_WEIGHT, device="cuda")

    def call() -> None:
        forward(tokens[:, :-1], tokens[:, 1:], mtp_weight=weight)[0].backward()
        for parameter in model.parameters():
            parameter.grad = None

    return call


def gradients(model: GPT, tokens: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Return loss and the gradient of every parameter that has one."""
    weight = torch.tensor(MTP_WEIGHT, device="cuda")
    loss, _ = model(tokens[:, :-1], tokens[:, 1:], mtp_weight=weight)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return loss.item(), found


def check(ours: GPT) -> None:
    """Compare loss and every gradient of a few windows with fp32.

    Errors are pooled over all draws, because one draw's error of a scalar is luck.

    Raises:
        AssertionError: one is too far off, or missing.
    """
    reference, errors = make_model("reference", torch.float32), PooledErrors()
    exact: dict[str, Tensor] = {}
    for _ in range(DRAWS):
        tokens = random_tokens(CHECKED_WINDOWS, TIME + 1)
        exact_loss, exact = gradients(reference, tokens)
        loss, found = gradients(ours, tokens)
        assert abs(loss - exact_loss) <= LOSS_TOLERANCE * exact_loss, f"{loss}, fp32 {exact_loss}"
        missing = exact.keys() - found.keys()
        assert not missing, f"no gradient of {', '.join(missing)}"
        errors.add(found, exact)
    far = {name: f"{errors[name]:.2e}" for name in exact if not errors[name] <= GRADIENT_TOLERANCE}
    assert not far, f"gradients too far off: {far}"
