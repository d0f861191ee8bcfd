"""From a model's weights to an artifact, and back."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifact import container
from artifact.container import Stored
from artifact.quantise import dequantise, quantise_rows
from errors import InputError

LARGEST_SMALL = 65_536  # elements: a 2-D tensor above this is a table, worth coding
LARGEST_FP16 = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class ArtifactReport:
    """What an export made.

    Attributes:
        bytes: size of the file.
        kinds: its bytes by part: ``header``, then storage kinds; scales are in ``fp16``.
        seconds: from weights to the file on disk.
    """

    bytes: int
    kinds: dict[str, int]
    seconds: float


def export(
    path: Path,
    architecture: dict[str, Any],
    weights: Mapping[str, Tensor],
    *,
    matrix_bits: int = 6,
    table_bits: int = 8,
    min_step: float = 1 / 31,
) -> ArtifactReport:
    """Quantise ``weights`` and write them to ``path``.

    A name that ends in ``_bank`` is a bank of matrices (L, rows, cols), coded a row at
    ``matrix_bits`` with no step under ``min_step`` (see `artifact.quantise`). Other 2-D tensors of
    more than 65,536 elements are tables, coded a row at ``table_bits``: every row of a table is a
    token's own, so each gets the step that serves it best. All else is fp16, or fp32 where a value
    does not fit.

    Args:
        path: the file to make or replace.
        architecture: what the model is rebuilt from; whatever JSON can hold.
        weights: floating point, by name, on any device.

    Raises:
        InputError: a weight is not finite, or all are more than an artifact can hold.
        ValueError: a weight of the multi-token-prediction heads, which serve training only.
        OSError: the file cannot be written.
    """
    begin = time.perf_counter()
    tensors = {}
    for name, weight in weights.items():
        if "mtp" in name:
            raise ValueError(f"{name}: multi-token-prediction heads are not exported; leave it out")
        if not torch.isfinite(weight).all():
            raise InputError(f"{name} is not finite: training diverged; lower its learning rate")
        tensors[name] = _store(name, weight.detach(), matrix_bits, table_bits, min_step)
    kinds = container.write(path, architecture, tensors)
    return ArtifactReport(sum(kinds.values()), kinds, time.perf_counter() - begin)


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture and the weights of an artifact, as fp32 on the CPU.

    Raises:
        InputError: missing, damaged, foreign, of another version, or over the limits.
    """
    architecture, tensors = container.read(path)
    return architecture, {name: _restore(stored) for name, stored in tensors.items()}


def _store(name: str, weight: Tensor, matrix_bits: int, table_bits: int, min_step: float) -> Stored:
    dtype = str(weight.dtype).removeprefix("torch.")
    if name.endswith("_bank"):
        codes, scale = quantise_rows(weight, matrix_bits, min_step=min_step)
        return Stored(f"int{matrix_bits}", codes, scale, dtype)
    if weight.ndim == 2 and weight.numel() > LARGEST_SMALL:
        codes, scale = quantise_rows(weight, table_bits)
        return Stored(f"int{table_bits}", codes, scale, dtype)
    if (weight.abs() <= LARGEST_FP16).all():
        return Stored("fp16", weight.half(), dtype=dtype)
    return Stored("fp32", weight.float(), dtype=dtype)


def _restore(stored: Stored) -> Tensor:
    if stored.scale is None:
        return stored.values.float()
    return dequantise(stored.values, stored.scale, torch.float32)
