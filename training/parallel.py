"""Parallel Muon: each rank updates its part of every bank, and all small parameters.

A bank's gradients are reduce-scattered as soon as they are complete, concurrently with the rest of
the backward pass: the MLP's before that of the first layer's attention, attention's before that of
the embedding. So a rank gets the sums of its local matrices only. Momentum and averages of a
matrix exist on its owner, which sends the new weights to all other ranks. Small gradients are
summed in one all-reduce, and every rank applies them. The partition of the optimizer's state is
ZeRO's (Rajbhandari et al. 2019, arXiv:1910.02054), over whole matrices for Muon as in Moonlight's
distributed Muon (Liu et al. 2025, arXiv:2502.16982).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from kernels.common.streams import PRIORITY
from kernels.optimizer.state import State
from model.gpt import GPT
from model.parameters import parameters
from runtime.ranks import World
from training.optimizer import RULES

NO_STATES: Mapping[str, State] = {}
ALIGNMENT = 4  # elements: kernels that read a packed gradient load 16 bytes at a time


class BankShard:
    """A bank's matrices, partitioned in order and evenly; the last ranks may get fewer.

    Attributes:
        pieces: each rank's part, a view (matrices, rows, cols) of the parameter.
        own: this rank's part; ``reduce`` sets its gradient.

    Args:
        parameter: (n, rows, cols) fp32, contiguous, whole on every rank. It moves to memory that
            zeros follow: collectives need equally many matrices from each rank.
        world: more than one rank.
    """

    def __init__(self, parameter: Tensor, world: World) -> None:
        self.parameter, self.world = parameter, world
        count, matrix = len(parameter), parameter.shape[1:]
        self.share = math.ceil(count / world.size)
        starts = range(0, self.share * world.size, self.share)
        self._padded = parameter.new_zeros(self.share * world.size, *matrix)
        parameter.data = self._padded[:count].copy_(parameter.detach())
        self.pieces = [self._cut(parameter.detach(), start) for start in starts]
        self.start, self.own = starts[world.rank], self.pieces[world.rank]
        self._gradient = parameter.new_zeros(self.share, *matrix)
        self._gradients = None if len(self._padded) == count else torch.zeros_like(self._padded)

    def _cut(self, whole: Tensor, start: int) -> Tensor:
        return whole[start : start + self.share]

    @torch.no_grad()
    def reduce(self) -> None:
        """Sum the parameter's gradients over ranks into ``own.grad``."""
        gradient = self.parameter.grad
        if gradient is None:
            self.own.grad = None
            return
        if self._gradients is not None:
            self._gradients[: len(gradient)].copy_(gradient)
            gradient = self._gradients
        self.world.reduce_scatter(self._gradient, gradient)
        self.own.grad = self._gradient[: len(self.own)]

    def cut(self, whole: Tensor) -> Tensor:
        """Return this rank's part of (n, ...)."""
        return self._cut(whole, self.start)

    def publish(self) -> None:
        """Gather every rank's matrices into the parameter, without a copy."""
        self.world.all_gather(self._padded, self._cut(self._padded, self.start))

    @torch.no_grad()
    def gather(self, own: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return every rank's ``own`` (matrices, ...), gathered into ``shape`` (n, ...)."""
        whole = own.new_zeros(len(self._padded), *shape[1:])
        mine = self._cut(whole, self.start)
        mine[: len(own)].copy_(own)
        self.world.all_gather(whole, mine)
        return whole[: shape[0]]


class Packed:
    """Gradients of many parameters, and one number, in one buffer.

    Args:
        parameters: fp32; the slot of one that never has a gradient stays empty.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        sizes = [ALIGNMENT * math.ceil(p.numel() / ALIGNMENT) for p in self.parameters]
        self.buffer = self.parameters[0].new_zeros(sum(sizes) + 1)
        *places, self.number = self.buffer.split([*sizes, 1])
        self.views = [
            place[: parameter.numel()].view_as(parameter)
            for place, parameter in zip(places, self.parameters, strict=True)
        ]

    @torch.no_grad()
    def sum_(self, number: Tensor, world: World) -> Tensor:
        """Replace each ``grad`` by its sum over ranks; return the sum of ``number``, () fp32."""
        gradients = [parameter.grad for parameter in self.parameters]
        live = [place for place, gradient in enumerate(gradients) if gradient is not None]
        torch._foreach_copy_([self.views[i] for i in live], [g for g in gradients if g is not None])
        self.number.copy_(number)
        world.sum_(self.buffer)
        self.place()
        return self.number[0]

    def place(self) -> None:
        """Let each ``grad`` that there is be its slot, where the sum is."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is not None:
                parameter.grad = view


class Shards:
    """The part of a model that this rank updates: on one rank all of it, without communication.

    All ranks must make the same calls in the same order.

    Attributes:
        own: by parameter name, in the model's order: this rank's matrices of a bank, as a view, and
            all other parameters whole.

    Args:
        model: parameters fp32, the same on all ranks.
        world: the ranks.
    """

    def __init__(self, model: GPT, world: World) -> None:
        self.world = world
        whole = dict(model.named_parameters())
        self.banks = {
            spec.name: BankShard(whole[spec.name], world)
            for spec in parameters(model.config)
            if world.size > 1 and RULES[spec.rule].axis is not None
        }
        self.own = whole | {name: bank.own for name, bank in self.banks.items()}
        small = [p for name, p in whole.items() if name not in self.banks]
        self._small = Packed(small) if world.size > 1 else None
        # Stream of the reductions, which start between the backward pass's waves of blocks, because
        # its priority is higher; None: that of the backward pass.
        on_gpu = world.device.type == "cuda"
        self._side = torch.cuda.Stream(world.device, priority=PRIORITY) if on_gpu else None
        self._connect()

    def _connect(self) -> None:
        """Call each collective once, because a graph cannot capture the setup of a first call."""
        for bank in self.banks.values():
            bank.parameter.grad = torch.zeros_like(bank.parameter)
            bank.reduce()
            bank.parameter.grad = bank.own.grad = None
        self.gather()

    def pieces(self, name: str) -> list[Tensor]:
        """Return each rank's part of a bank."""
        return self.banks[name].pieces if self.banks else [self.own[name]]

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Sum the banks' gradients over ranks during a backward pass in this context.

        A bank is reduced once its gradient is complete, concurrently with the rest of the backward
        pass. At the end each bank of ``own`` has its ``grad``.
        """
        waiting = dict(self.banks)

        def reduce(name: str) -> None:
            if self._side:
                self._side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._side):
                waiting.pop(name).reduce()

        hooks = [
            bank.parameter.register_post_accumulate_grad_hook(lambda _, name=name: reduce(name))
            for name, bank in self.banks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for name in [*waiting]:  # those without a gradient
            reduce(name)
        if self._side:
            torch.cuda.current_stream().wait_stream(self._side)

    def reduce_small(self, nats: Tensor) -> Tensor:
        """Sum all gradients but the banks', and ``nats``, over ranks in one buffer.

        Args:
            nats: () fp32; its sum is returned.
        """
        return nats if self._small is None else self._small.sum_(nats, self.world)

    def place_small(self) -> None:
        """Let the small parameters' gradients be where ``reduce_small`` leaves their sums."""
        if self._small is not None:
            self._small.place()

    def norm(self) -> Tensor:
        """Return the global norm of all ranks' gradients, () fp32, the same bits on every rank."""
        gradients = {name: p.grad for name, p in self.own.items() if p.grad is not None}
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        if self.banks:
            local = [index for index, name in enumerate(gradients) if name in self.banks]
            norms[local] = self.world.sum_(norms[local].square()).sqrt()
        return norms.norm()

    def gather(self) -> None:
        """Gather every rank's updated matrices into the model."""
        for bank in self.banks.values():
            bank.publish()

    def join(
        self, own: Mapping[str, Tensor], states: Mapping[str, State] = NO_STATES
    ) -> dict[str, Tensor]:
        """Return whole tensors, gathered from every rank's parts.

        Args:
            own: this rank's parts, by names that end in a parameter's name.
            states: of the tensors that an optimizer declares, by the same names; all others have
                their parameter's shape.
        """
        whole = dict(own)
        for name, tensor in own.items():
            if shared := self._shared(name, states):
                whole[name] = shared[0].gather(tensor, shared[1])
        return whole

    def cut(
        self, whole: Mapping[str, Tensor], states: Mapping[str, State] = NO_STATES
    ) -> dict[str, Tensor]:
        """Return this rank's parts of whole tensors; drop those that have another shape.

        Args:
            whole, states: as ``join`` returns and takes them.
        """
        own = dict(whole)
        for name, tensor in whole.items():
            if shared := self._shared(name, states):
                bank, shape = shared
                del own[name]
                if tensor.shape == shape:
                    own[name] = bank.cut(tensor)
        return own

    def _shared(
        self, name: str, states: Mapping[str, State]
    ) -> tuple[BankShard, tuple[int, ...]] | None:
        """Return the bank and the whole shape of a tensor that ranks share; None for others."""
        bank = self.banks.get(name.rpartition(".")[2])
        if bank is None:
            return None
        state = states.get(name, State(name, tuple(bank.parameter.shape), axis=0))
        return None if state.axis is None else (bank, state.shape)
