"""Which parameter learns how: every one in exactly one group, and one global clip over all."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from kernels.optimizer.reference import AdamW, Muon, newton_schulz
from settings import Settings

TABLES = {"tok_emb", "bigram_table", "value_table"}
HEADS = {"head", "mtp_heads"}


def group_of(name: str) -> str:
    """The group of a parameter: bank (Muon), table, head or small (AdamW)."""
    if name.endswith("_bank"):
        return "bank"
    if name in TABLES:
        return "table"
    return "head" if name in HEADS else "small"


class Optimizer:
    """Muon on the banks and AdamW on the rest, under one learning-rate scale.

    Attributes:
        parameters: in the model's order.
        matrix_lr, lr: learning rates of the banks, and of AdamW's groups by name.

    Args:
        model: its parameters; each is in exactly one group.
        settings: learning rates, decays, betas.
        muon_dtype: of the Newton-Schulz products.
        own: by name, parts of parameters that are learnt in their place; their gradients are given
            to them.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        muon_dtype: torch.dtype,
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        parameters = dict(model.named_parameters()) | dict(own or {})
        groups: dict[str, dict[str, Tensor]] = {"bank": {}, "table": {}, "head": {}, "small": {}}
        for name, parameter in parameters.items():
            groups[group_of(name)][name] = parameter
        self.parameters = list(parameters.values())
        self.muon = Muon(
            groups.pop("bank"),
            newton_schulz(settings.muon_coefficients, settings.muon_backend_steps),
            settings.muon_wd,
            muon_dtype,
            row_norm=settings.muon_row_norm,
        )
        self.adamw = AdamW(
            groups, (settings.beta1, settings.beta2), settings.adam_eps, settings.adam_wd
        )
        self.matrix_lr = settings.matrix_lr
        self.lr = {
            "table": settings.tied_embed_lr if settings.tie_embeddings else settings.embed_lr,
            "head": settings.head_lr,
            "small": settings.scalar_lr,
        }

    def step(self, lr_scale: float, momentum: float) -> None:
        """Apply all gradients."""
        self.adamw.step({group: lr * lr_scale for group, lr in self.lr.items()})
        self.muon.step(self.matrix_lr * lr_scale, momentum)

    def tensors(self) -> dict[str, Tensor]:
        """Live state tensors by name, for checkpoints."""
        return {
            f"{kind}.{name}": tensor
            for kind, state in (
                ("muon.momentum", self.muon.momentum),
                ("adamw.first", self.adamw.first),
                ("adamw.second", self.adamw.second),
            )
            for name, tensor in state.items()
        } | {"adamw.steps": self.adamw.count}


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
