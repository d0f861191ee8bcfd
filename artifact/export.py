"""From a model's weights to an artifact, and back."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from artifact.format import container
from artifact.quantisation.parts import read_back
from artifact.quantisation.recipe import Recipe, quantise
from artifact.quantisation.search import largest_that_fits
from artifact.submission.code_size import Code
from errors import InputError

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class ArtifactReport:
    """The result of an export.

    Attributes:
        bytes: size of the file.
        streams: its bytes by part: ``header``, then streams; scales are in ``steps fp16``.
        factor: that the recipe's steps were multiplied by to fit the limit.
        seconds: from weights to the file on disk.
    """

    bytes: int
    streams: dict[str, int]
    factor: float
    seconds: float


def export(
    path: Path,
    architecture: dict[str, Any],
    weights: Mapping[str, Tensor],
    roles: Mapping[str, str],
    recipe: Recipe | None = None,
    hessians: Mapping[str, Tensor] | None = None,
    limit: int | None = None,
) -> ArtifactReport:
    """Quantise ``weights`` and write them to ``path``.

    Args:
        path: the file to make or replace.
        architecture: from which the model is rebuilt; any JSON.
        weights: floating point, by name, on any device.
        roles: of `model.parameters.roles`, by name.
        recipe: see `artifact.quantisation.recipe`.
        hessians: of `artifact.quantisation.hessians.collect`; without, each weight goes to its
            nearest code.
        limit: bytes that the file should fill and not exceed, by a common factor on the recipe's
            steps. The file is smaller if finer steps gain nothing, and larger if the coarsest
            steps do not suffice.

    Raises:
        InputError: a weight is not finite, or all are more than an artifact can hold.
        ValueError: a weight of the multi-token-prediction heads, which serve training only.
        OSError: the file cannot be written.
    """
    begin = time.perf_counter()
    recipe = recipe or Recipe()
    if limit is not None:
        recipe = recipe.filling(limit, sum(weight.numel() for weight in weights.values()))

    def encoded(factor: float) -> container.Encoded:
        stored = quantise(weights, roles, recipe.coarser(factor), hessians)
        return container.encode(architecture, stored)

    try:
        factor, found = (
            largest_that_fits(encoded, limit, recipe.finest)
            if limit is not None
            else (1.0, encoded(1.0))
        )
    except container.TooLarge as problem:
        raise InputError(f"{path}: cannot be written: {problem}; use a smaller model") from problem
    container.save(path, found)
    return ArtifactReport(len(found.blob), found.sizes, factor, time.perf_counter() - begin)


def export_run(
    path: Path,
    settings: "Settings",
    weights: Mapping[str, Tensor],
    hessians: Mapping[str, Tensor],
    root: Path,
) -> tuple[dict[str, Tensor], ArtifactReport]:
    """Export a run's weights so that code and artifact fit its limit; return them read back.

    Args:
        path: the file to make or replace.
        settings: network, recipe and limit.
        weights, hessians: as `export` takes them.
        root: of the code that runs.

    Returns:
        the artifact's weights, fp32 on the CPU, and the report of the export.

    Raises:
        InputError, OSError: as `export` and `load`.
    """
    from model.parameters import roles  # `load` needs no package but this one

    network = settings.architecture()
    architecture = network.header() | {"mtp_num_heads": 0}
    limit = max(0, settings.size_limit - Code.of(root, settings).bytes)
    recipe = Recipe.of(settings)
    report = export(path, architecture, weights, roles(network), recipe, hessians, limit)
    return load(path)[1], report


def load(
    path: Path, check: container.Check | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the architecture and the weights of an artifact, as fp32 on the CPU.

    Args:
        path: the file.
        check: raises ValueError if the header is not the expected one; called before anything is
            decoded.

    Raises:
        InputError: missing, damaged, foreign, of another version, or over the limits.
    """
    architecture, tensors = container.read(path, check)
    try:
        return architecture, read_back(tensors)
    except ValueError as problem:
        raise InputError(f"{path}: not a sound artifact: {problem}; export it again") from problem
