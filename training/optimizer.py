"""Which parameter learns how: every one in exactly one group, and one global clip over all."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kernels.optimizer.reference import AdamW, Muon, newton_schulz
from kernels.optimizer.state import State
from model.gpt import GPT
from model.parameters import parameters
from settings import Settings

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rule:
    """How the parameters of a group are updated.

    Attributes:
        optimizer: "muon" or "adamw".
        rate: learning rate by settings, before the schedule.
        decay: decoupled weight decay by settings.
        axis: along which ranks share a parameter, its gradient and its states; None: every rank
            updates the whole parameter.
    """

    optimizer: str
    rate: Callable[[Settings], float]
    decay: Callable[[Settings], float]
    axis: int | None = None


def table_rate(settings: Settings) -> float:
    """Return the tables' learning rate."""
    return settings.tied_embed_lr if settings.tie_embeddings else settings.embed_lr


def down_rate(settings: Settings) -> float:
    """Return the learning rate of the MLP's down projections."""
    return settings.matrix_lr * settings.down_lr_factor


def table_decay(settings: Settings) -> float:
    """Return the weight decay of tables and output heads."""
    return settings.adam_wd if settings.embed_wd is None else settings.embed_wd


# By ``ParameterSpec.rule``.
RULES = {
    "muon": Rule("muon", lambda run: run.matrix_lr, lambda run: run.muon_wd, axis=0),
    "down": Rule("muon", down_rate, lambda run: run.muon_wd / run.down_lr_factor, axis=0),
    "table": Rule("adamw", table_rate, table_decay),
    "head": Rule("adamw", lambda run: run.head_lr, table_decay),
    "scalar": Rule("adamw", lambda run: run.scalar_lr, lambda run: run.adam_wd),
}


class Optimizer:
    """Muon on the banks and AdamW on the rest, under one learning-rate scale.

    Attributes:
        parameters: in the model's order.
        lr: learning rate of each group, by rule.

    Args:
        model: its parameters; each is in exactly one group.
        settings: learning rates, decays, betas.
        muon_dtype: of the Newton-Schulz products.
        own: by name, parts of parameters that are learnt in their place; their gradients are given
            to them.
    """

    def __init__(
        self,
        model: GPT,
        settings: Settings,
        muon_dtype: torch.dtype,
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        learnt = dict(model.named_parameters()) | dict(own or {})
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in RULES}
        self._specs = parameters(model.config)
        for spec in self._specs:
            groups[spec.rule][spec.name] = learnt[spec.name]
        self.parameters = list(learnt.values())
        self.lr = {group: rule.rate(settings) for group, rule in RULES.items()}
        decays = {group: rule.decay(settings) for group, rule in RULES.items()}
        self.muon = Muon(
            _of("muon", groups),
            newton_schulz(settings.muon_coefficients, settings.muon_backend_steps),
            _of("muon", decays),
            muon_dtype,
            row_norm=settings.muon_row_norm,
            beta2=settings.muon_beta2,
            cautious=settings.cautious_decay,
        )
        self.adamw = AdamW(
            _of("adamw", groups),
            (settings.beta1, settings.beta2),
            settings.adam_eps,
            _of("adamw", decays),
            cautious=settings.cautious_decay,
        )

    def step(self, lr_scale: float, momentum: float) -> None:
        """Apply all gradients."""
        rates = {group: lr * lr_scale for group, lr in self.lr.items()}
        self.adamw.step(rates)
        self.muon.step(rates, momentum)

    def tensors(self) -> dict[str, Tensor]:
        """Live state tensors by name, for checkpoints."""
        return {
            f"{kind}.{name}": tensor
            for kind, state in (self.muon.states | self.adamw.states).items()
            for name, tensor in state.items()
        } | {"adamw.steps": self.adamw.count}

    def states(self) -> dict[str, State]:
        """Return what ``tensors`` are of whole parameters, by the same names."""
        optimizers = {"muon": self.muon, "adamw": self.adamw}
        return {
            f"{state.name}.{spec.name}": state
            for spec in self._specs
            for state in optimizers[RULES[spec.rule].optimizer].declare(spec.shape)
        }


def _of(optimizer: str, by_rule: Mapping[str, Value]) -> dict[str, Value]:
    """Return what belongs to an optimizer's rules."""
    return {rule: value for rule, value in by_rule.items() if RULES[rule].optimizer == optimizer}


def clip_(gradients: Iterable[Tensor], clip: Tensor, norm: Tensor | None = None) -> Tensor:
    """Scale gradients in place so that their global norm is at most ``clip``; all on the device.

    Args:
        gradients: after reduction over ranks, exactly those that are applied.
        clip: () fp32; 0 or less: no clip.
        norm: () fp32, theirs, where other ranks hold a part of them.

    Returns:
        () fp32, the norm before.
    """
    gradients = list(gradients)
    if norm is None:
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
    coefficient = torch.where(clip > 0, (clip / (norm + 1e-6)).clamp(max=1.0), 1.0)
    torch._foreach_mul_(gradients, coefficient)
    return norm
