"""From weights to the numbers that an artifact stores, by the role of each weight."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from artifact.grid import nearest, row_steps
from artifact.quantisation.gptq import gptq
from artifact.quantisation.parts import COLUMNS, read_back
from artifact.quantisation.steps import ROWS, Steps, scale_of
from artifact.stored import TRELLIS, Stored
from errors import DivergedError

if TYPE_CHECKING:
    from settings.artifact import ArtifactSettings

LARGEST_FP16 = torch.finfo(torch.float16).max
LEAST_CLIP = 5.0  # standard deviations of a row: less would cut off weights that matter
FINEST = 1 / 16
RATE = 4.0
CODED = 0.98  # of a file's bytes are codes

Grid = tuple[Tensor, Tensor]  # steps (n, rows) fp16, factors of columns (n, cols) fp32


@dataclass(frozen=True)
class Role:
    """How the matrices of a role are coded: see `artifact.grid.row_steps`."""

    bits: int
    clip: float = 0.0
    min_step: float = 0.0
    stretch: float = 1.0

    def coarser(self, factor: float) -> "Role":
        """Return a role with steps ``factor`` times as large; no row becomes clipped by it."""
        if self.clip:
            return replace(self, clip=self.clip * factor, min_step=self.min_step * factor)
        stretch = max(1.0, self.stretch * factor)
        return replace(self, min_step=self.min_step * factor, stretch=stretch)


@dataclass(frozen=True)
class Recipe:
    """How a model is coded.

    Attributes:
        attention, mlp, embed, table: by role, which ``model.parameters`` declares for each
            parameter as ``storage``. Parameters of the role ``small`` are fp16.
        damping: of GPTQ's Hessians.
        rank: of the correction of the matrices with the largest errors; 0: none.
        corrected: how many matrices are corrected.
        rate: about how many bits a code takes on average if the loss chooses the steps
            (`artifact.quantisation.steps`); 0: the roles' clips do.
        scale: factor on the steps that the loss chooses.
        trellis: whether matrices with Hessians have the codes of `artifact.trellis`.
    """

    attention: Role = Role(6, min_step=1 / 31)
    mlp: Role = Role(6, min_step=1 / 31)
    embed: Role = Role(8)
    table: Role = Role(8)
    damping: float = 0.01
    rank: int = 0
    corrected: int = 0
    rate: float = 0.0
    scale: float = 1.0
    trellis: bool = False

    @classmethod
    def of(cls, settings: "ArtifactSettings") -> "Recipe":
        """Return the recipe that a run's settings ask for."""
        floor = settings.quant_min_step
        return cls(
            Role(settings.attention_bits, settings.attention_clip, floor),
            Role(settings.mlp_bits, settings.mlp_clip, floor),
            Role(settings.embed_bits, settings.embed_clip),
            Role(settings.table_bits, settings.table_clip),
            settings.gptq_damping,
            settings.lqer_rank,
            settings.lqer_matrices,
            RATE if settings.quant_by_loss else 0.0,
            trellis=settings.quant_trellis,
        )

    def coarser(self, factor: float) -> "Recipe":
        """Return the same with every step ``factor`` times as large."""
        attention, mlp, embed, table = (role.coarser(factor) for role in self._roles)
        scale = self.scale * factor
        return replace(self, attention=attention, mlp=mlp, embed=embed, table=table, scale=scale)

    def filling(self, limit: int, codes: int) -> "Recipe":
        """Return the same for a file of about ``limit`` bytes with so many codes."""
        return replace(self, rate=self.rate and CODED * 8 * limit / max(1, codes))

    @property
    def finest(self) -> float:
        """The least factor for `coarser` that leaves all rows the clip they need."""
        return max([LEAST_CLIP / role.clip for role in self._roles if role.clip] + [FINEST])

    @property
    def _roles(self) -> tuple[Role, ...]:
        return self.attention, self.mlp, self.embed, self.table


def quantise(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, str],
    recipe: Recipe,
    hessians: Mapping[str, Tensor] | None = None,
) -> dict[str, Stored]:
    """Return every weight as it is stored, on the device where it is.

    A weight with a Hessian is coded by `artifact.quantisation.gptq`; without, each value goes to
    the nearest code. On a GPU all of preset ``seed`` takes under 5 s.

    Args:
        weights: floating point, by name.
        roles: of `model.parameters.roles`, by name.
        recipe: how.
        hessians: of `artifact.quantisation.hessians.collect`, on the weights' device. A weight
            without sensitivities has the steps of its role, whatever the recipe's rate.

    Raises:
        DivergedError: a weight is not finite.
        ValueError: a weight of the multi-token-prediction heads, which serve training only.
    """
    from model.parameters import EDGES  # `artifact.export.load` needs no package but this one

    hessians = hessians or {}
    stored: dict[str, Stored] = {}
    grids = _grids(weights, roles, recipe, hessians)
    for name, weight in weights.items():
        role = roles[name]
        if role == "none":
            raise ValueError(f"{name}: multi-token-prediction heads are not exported; leave it out")
        if not torch.isfinite(weight).all():
            raise DivergedError(f"{name} is not finite: training diverged; lower its learning rate")
        if role == EDGES:
            values = weight.cpu().to(torch.uint16)
            stored[name] = Stored("uint16", values, dtype="uint16", role=EDGES)
        elif role == "small" or not weight.numel():
            stored[name] = _small(weight.detach())
        else:
            how, found = getattr(recipe, role), (hessians.get(name), grids.get(name))
            stored |= _coded(name, weight.detach(), role, how, *found, recipe)
    if recipe.rank:
        from artifact.quantisation.lqer import correct  # a submission's file may leave it out

        stored |= correct(weights, stored, hessians, recipe.rank, recipe.corrected)
    return stored


def _grids(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, str],
    recipe: Recipe,
    hessians: Mapping[str, Tensor],
) -> dict[str, Grid]:
    """Return steps and factors of columns of the weights for which the loss chooses them."""
    names = [name for name in weights if recipe.rate and name + ROWS in hessians]
    names = [name for name in names if name in hessians and weights[name].numel()]
    names = [name for name in names if roles[name] != "small"]
    found = {
        name: Steps.of(
            _bank(weights[name]),
            hessians[name],
            hessians[name + ROWS],
            getattr(recipe, roles[name]).bits,
            recipe.damping,
        )
        for name in names
    }
    scale = recipe.scale * scale_of(found.values(), recipe.rate)
    return {name: (steps.at(scale), steps.columns) for name, steps in found.items()}


def _coded(
    name: str,
    weight: Tensor,
    role: str,
    how: Role,
    hessian: Tensor | None,
    grid: Grid | None,
    recipe: Recipe,
) -> dict[str, Stored]:
    """Return a matrix or a bank as stored, and the factors of its columns if it has some."""
    if grid is None:
        step, columns = row_steps(weight, how.bits, how.clip, how.min_step, how.stretch), None
    else:
        step, columns = grid[0].view(weight.shape[:-1]), grid[1]
    kind = "int"
    if hessian is None:
        codes = nearest(weight, step, how.bits)
    else:
        kind = TRELLIS if recipe.trellis else kind
        how_coded = step.view(-1, weight.size(-2)), how.bits, recipe.damping, columns
        codes = gptq(_bank(weight), hessian, *how_coded, recipe.trellis).view_as(weight)
    found = {name: Stored(f"{kind}{how.bits}", codes, step, _dtype(weight), role)}
    if columns is not None:
        factors = columns.view(*weight.shape[:-2], weight.size(-1)).half()
        found[name + COLUMNS] = Stored("fp16", factors, role="columns")
    restored = read_back(found)[name]
    error = relative_error(weight, restored, hessian)
    return found | {name: replace(found[name], error=error)}


def _bank(weight: Tensor) -> Tensor:
    return weight.detach().view(-1, *weight.shape[-2:])


def relative_error(weight: Tensor, found: Tensor, hessian: Tensor | None) -> float:
    """Return the relative RMS error, of the output if the Hessian of its input is known."""

    def power(matrix: Tensor) -> Tensor:
        through = matrix if hessian is None else matrix @ hessian
        return (through * matrix).sum(dtype=torch.float64)

    total = power(weight.float())
    return (power(weight.float() - found) / total).sqrt().item() if total > 0 else 0.0


def _small(weight: Tensor) -> Stored:
    kind = "fp16" if (weight.abs() <= LARGEST_FP16).all() else "fp32"
    values = weight.half() if kind == "fp16" else weight.float()
    error = relative_error(weight, values.float(), None) if weight.numel() else 0.0
    return Stored(kind, values, dtype=_dtype(weight), error=error)


def _dtype(weight: Tensor) -> str:
    return str(weight.dtype).removeprefix("torch.")
