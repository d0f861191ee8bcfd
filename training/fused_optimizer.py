"""The optimizer in a few kernels that read all that changes from step to step on the device."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.optimizer.adamw import FusedAdamW
from kernels.optimizer.gradient_norm import GradientNorm
from kernels.optimizer.muon import Bank, FusedMuon
from kernels.optimizer.state import State
from kernels.optimizer.statistics import FIELDS, REST, StepStatistics
from kernels.optimizer.step_levers import StepLevers
from model.gpt import GPT
from runtime.ranks import World
from settings import Settings
from training.optimizer import Optimizer
from training.parallel import Shards


class LeverBlock(Protocol):
    """() fp32 tensors on the device by name; those of ``StepLevers`` are read."""

    def __getitem__(self, name: str, /) -> Tensor: ...


class FusedOptimizer:
    """Clip, Muon on the banks, AdamW on the rest, exponential averages, statistics: one step.

    Its state is ``Optimizer``'s, so a checkpoint of one fits the other. A step whose gradient norm
    is not finite, or above its lever, changes nothing but ``skipped``. Nothing is read on the host,
    so that a CUDA graph can replay ``step``, once a step has run with gradients where they lie in
    the graph.

    Attributes:
        parameters: in the model's order.
        groups: names of the rows of ``step``'s statistics: each bank, and the rest.
        norm: () fp32, the gradients' global norm before the latest step's clip.
        statistics: (groups, fields) fp32 of the latest step.
        fields: `kernels.optimizer.statistics.FIELDS`.
        skipped: () int32, steps that were not applied.

    Args:
        model: its parameters, fp32; their gradients are fp32 and, as autograd leaves them, strided
            as they are. A parameter without a gradient stays.
        settings: learning rates, decays, betas, the int6 grid's least step.
        muon_dtype: of the Newton-Schulz products.
        averages: live averages by parameter name, moved by each step; those that are averaged in
            another way are not among them.
        levers: read in every step.
        shards: what this rank learns; all ranks then step together. None: everything.
    """

    fields = FIELDS

    def __init__(
        self,
        model: GPT,
        settings: Settings,
        muon_dtype: torch.dtype,
        averages: Mapping[str, Tensor],
        levers: LeverBlock,
        shards: Shards | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self._shards = shards or Shards(model, World.single(device))
        self._state = Optimizer(model, settings, muon_dtype, self._shards.own)
        self._averages = averages
        read = set(StepLevers._fields) - (set() if settings.lean else {"lean"})
        self._levers = StepLevers(**{name: levers[name] for name in read})
        self.parameters = self._state.parameters
        banks, adamw = self._state.muon.banks, self._state.adamw
        rest = {name: p for group in adamw.groups.values() for name, p in group.items()}
        self._ordered = banks | rest
        # Each rank's piece of a bank has a place, so that all ranks add up the same numbers.
        pieces = [piece for name in banks for piece in self._shards.pieces(name)]
        self._gradient_norm = GradientNorm([*pieces, *rest.values()])
        self._muon = self._make_muon(settings)
        self._adamw = self._make_adamw(len(pieces))
        self.groups = (*banks, REST)
        self._statistics = self._make_statistics(len(pieces))
        self.statistics = self._statistics.values
        self.norm, _, _ = self._gradient_norm.decision.unbind()
        self._steps, self.skipped = self._gradient_norm.counts.unbind()

    def _make_muon(self, settings: Settings) -> FusedMuon:
        muon = self._state.muon
        return FusedMuon(
            [
                Bank(
                    bank.detach(),
                    muon.momentum[name],
                    self._averages.get(name),
                    muon.second.get(name),
                )
                for name, bank in muon.banks.items()
            ],
            self._gradient_norm,
            self._levers,
            coefficients=muon.coefficients,
            dtype=muon.dtype,
            rates=[self._state.lr[group] for group, banks in muon.groups.items() for _ in banks],
            decays=[
                muon.weight_decay[group] for group, banks in muon.groups.items() for _ in banks
            ],
            row_norm=muon.row_norm,
            beta2=muon.beta2,
            cautious=muon.cautious,
            min_step=settings.quant_min_step,
        )

    def _make_adamw(self, pieces: int) -> FusedAdamW:
        adamw, names = self._state.adamw, list(self._ordered)[len(self._state.muon.banks) :]
        places = {name: pieces + place for place, name in enumerate(names)}
        rates, decays = (
            {places[name]: each[group] for group, named in adamw.groups.items() for name in named}
            for each in (self._state.lr, adamw.weight_decay)
        )
        return FusedAdamW(
            self._gradient_norm,
            {places[name]: tensor for name, tensor in adamw.first.items()},
            {places[name]: tensor for name, tensor in adamw.second.items()},
            rates,
            decays,
            {places[name]: mean for name, mean in self._averages.items() if name in places},
            self._levers,
            betas=adamw.betas,
            eps=adamw.eps,
            cautious=adamw.cautious,
        )

    def _make_statistics(self, pieces: int) -> StepStatistics:
        norm, ranks = self._gradient_norm, self._shards.world.size
        places = (range(first, first + ranks) for first in range(0, pieces, ranks))
        banks = zip(places, self._muon.statistics, strict=True)
        rest = range(pieces, len(norm.parameters))
        self._dealt = norm.statistics[: norm.chunks_of(range(pieces)).stop]
        return StepStatistics(norm, [*banks, (rest, self._adamw.statistics)])

    @torch.no_grad()
    def step(self) -> None:
        """Apply all gradients, and move the averages; fills ``norm`` and ``statistics``."""
        banks = self.find_gradients()
        self._gradient_norm.measure()
        self._shards.world.sum_(self._dealt)
        self._gradient_norm.decide(self._levers)
        self._muon(banks, self._adamw)  # whose pass hides under Muon's products
        self._statistics()
        self._sum_steps()

    def find_gradients(self) -> list[Tensor | None]:
        """Copy the addresses of the gradients in ``.grad`` to the device; return the banks'.

        There is no copy if they are the last step's. Before a replay of ``step``, parameters other
        than banks may have lost their gradients: they stay.
        """
        gradients = [parameter.grad for parameter in self._ordered.values()]
        banks, rest = gradients[: len(self._muon.banks)], gradients[len(self._muon.banks) :]
        self._gradient_norm.gradients.update([*self._placed(banks), *rest])
        return banks

    def _placed(self, banks: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
        """Each bank's gradient at this rank's place among all ranks'."""
        world = self._shards.world
        for gradient in banks:
            yield from (gradient if rank == world.rank else None for rank in range(world.size))

    def _sum_steps(self) -> None:
        """Let what the owners saw of the banks' steps be known to all."""
        world, steps = self._shards.world, self.statistics[: len(self._muon.banks), 3:]
        if world.size > 1:
            steps.copy_(world.sum_(steps.contiguous()))

    def tensors(self) -> dict[str, Tensor]:
        """Live state tensors by name, for checkpoints; ``Optimizer``'s names."""
        return self._state.tensors() | {"adamw.steps": self._steps}

    def states(self) -> dict[str, State]:
        """Return what ``tensors`` are of whole parameters, by the same names."""
        return self._state.states()
