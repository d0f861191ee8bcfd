"""The door to the operations."""

import pytest

import kernels

# As docs/architecture.md lists them, and rotary's table, which ``attention`` takes.
NAMES = (
    "quant",
    "embed",
    "mix_norm",
    "norm",
    "linear",
    "linear_add",
    "projections",
    "self_attention",
    "attention",
    "mlp",
    "loss",
    "rope_table",
)


@pytest.mark.parametrize("backend", kernels.BACKENDS)
def test_every_backend_has_every_operation(backend: str) -> None:
    ops = kernels.operations(backend)
    assert [name for name in NAMES if not callable(getattr(ops, name, None))] == []


def test_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'cuda'.*reference.*compiled"):
        kernels.operations("cuda")
