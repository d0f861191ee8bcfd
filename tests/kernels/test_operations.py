"""What ``operations`` returns."""

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

import kernels
from files import PROJECT
from tests.small import clean_environment

NAMES = [field.name for field in fields(kernels.Operations)]


@pytest.mark.parametrize("backend", kernels.BACKENDS)
def test_every_backend_has_every_operation(backend: str) -> None:
    ops = kernels.operations(backend)
    assert [name for name in NAMES if not callable(getattr(ops, name))] == []


@pytest.mark.parametrize("backend", kernels.BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_protocol(backend: str, name: str) -> None:
    """Names, order, kinds and defaults; a backend may add parameters that have a default."""
    protocol: Any = next(f.type for f in fields(kernels.Operations) if f.name == name)
    _, *declared = inspect.signature(protocol.__call__).parameters.values()
    function = getattr(kernels.operations(backend), name)
    found = list(inspect.signature(function).parameters.values())
    shape = [(p.name, p.kind, p.default) for p in found]
    assert len(declared) <= 12
    assert shape[: len(declared)] == [(p.name, p.kind, p.default) for p in declared]
    assert all(p.default is not p.empty for p in found[len(declared) :])


def test_operations_cannot_be_patched() -> None:
    ops = kernels.operations("reference")
    with pytest.raises(FrozenInstanceError):
        ops.mlp = ops.linear  # pyright: ignore[reportAttributeAccessIssue]


def test_the_reference_imports_no_triton() -> None:
    program = (
        "import sys; from kernels import operations; operations('reference')\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'triton'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'cuda'.*reference.*compiled"):
        kernels.operations("cuda")
