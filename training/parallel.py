"""Parallel Muon: each rank learns its own matrices of each bank, and all the small parameters.

A step's gradients of a bank are reduce-scattered as soon as the backward pass has them, beside
what it does next, so a rank gets the sum of its own matrices alone; momentum, averages and the
steps of a matrix exist on its owner, which sends the new weights to all others. Small gradients
are summed in one all-reduce, and every rank learns them alike. The
partition of the optimizer's state is ZeRO's (Rajbhandari et al. 2019, arXiv:1910.02054), over whole
matrices for Muon as in Moonlight's distributed Muon (Liu et al. 2025, arXiv:2502.16982).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runtime.ranks import World
from training.optimizer import group_of

ALIGNMENT = 4  # elements: kernels that read a packed gradient load 16 bytes at a time


class BankShard:
    """A bank's matrices, dealt in order, equally many to each rank; the last ones may get fewer.

    Attributes:
        pieces: of each rank, a view (its matrices, rows, cols) of the parameter.
        own: this rank's; ``reduce`` gives it its gradient.

    Args:
        parameter: (n, rows, cols) fp32, contiguous, whole on every rank.
        world: more than one rank.
    """

    def __init__(self, parameter: Tensor, world: World) -> None:
        self.parameter, self.world = parameter, world
        self.share = math.ceil(len(parameter) / world.size)
        starts = range(0, self.share * world.size, self.share)
        self.pieces = [self._cut(parameter.detach(), start) for start in starts]
        self.start, self.own = starts[world.rank], self.pieces[world.rank]
        matrix = parameter.shape[1:]
        self._gradient = parameter.new_zeros(self.share, *matrix)
        # Collectives want as much from each rank: matrices that are missing are zeros.
        missing = self.share * world.size - len(parameter)
        self._padded = parameter.new_zeros(len(parameter) + missing, *matrix) if missing else None

    def _cut(self, whole: Tensor, start: int) -> Tensor:
        return whole[start : start + self.share]

    @torch.no_grad()
    def reduce(self) -> None:
        """Sum the parameter's gradients over ranks into ``own.grad``."""
        gradient = self.parameter.grad
        if gradient is None:
            self.own.grad = None
            return
        if self._padded is not None:
            self._padded[: len(gradient)].copy_(gradient)
            gradient = self._padded
        self.world.reduce_scatter(self._gradient, gradient)
        self.own.grad = self._gradient[: len(self.own)]

    def cut(self, whole: Tensor) -> Tensor:
        """This rank's matrices of (n, rows, cols)."""
        return self._cut(whole, self.start)

    @torch.no_grad()
    def gather(self, own: Tensor, whole: Tensor) -> Tensor:
        """Every rank's ``own`` (its matrices, rows, cols) into ``whole`` (n, ...); returns it."""
        target = whole if self._padded is None else self._padded
        mine = self._cut(target, self.start)
        mine[: len(own)].copy_(own)
        self.world.all_gather(target, mine)
        return whole if target is whole else whole.copy_(target[: len(whole)])


class Packed:
    """Gradients of many parameters, and one number, in one buffer.

    Args:
        parameters: fp32; one that never has a gradient leaves its place empty.
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
        """Let each ``grad`` be its sum over ranks; returns that of ``number``, () fp32."""
        gradients = [parameter.grad for parameter in self.parameters]
        live = [place for place, gradient in enumerate(gradients) if gradient is not None]
        torch._foreach_copy_([self.views[i] for i in live], [g for g in gradients if g is not None])
        self.number.copy_(number)
        world.sum_(self.buffer)
        for place in live:
            self.parameters[place].grad = self.views[place]
        return self.number[0]


class Shards:
    """What of a model this rank learns. On one rank that is everything, and nothing is moved.

    All ranks must make the same calls in the same order.

    Attributes:
        own: by parameter name, in the model's order: this rank's matrices of a bank, as a view, and
            everything else whole.

    Args:
        model: parameters fp32, the same on all ranks.
        world: this rank's place.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.world = world
        parameters = dict(model.named_parameters())
        self.banks = {
            name: BankShard(parameter, world)
            for name, parameter in parameters.items()
            if world.size > 1 and group_of(name) == "bank"
        }
        self.own = parameters | {name: bank.own for name, bank in self.banks.items()}
        small = [p for name, p in parameters.items() if name not in self.banks]
        self._small = Packed(small) if world.size > 1 else None
        # Reductions run on it; None: where the backward pass does.
        self._beside = torch.cuda.Stream(world.device) if world.device.type == "cuda" else None
        self._meet()

    def _meet(self) -> None:
        """Make each kind of call once: a graph cannot capture what a first call sets up."""
        for bank in self.banks.values():
            bank.parameter.grad = torch.zeros_like(bank.parameter)
            bank.reduce()
            bank.parameter.grad = bank.own.grad = None
        self.gather()

    def pieces(self, name: str) -> list[Tensor]:
        """Each rank's part of a bank."""
        return self.banks[name].pieces if self.banks else [self.own[name]]

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Sum the banks' gradients over ranks while a backward pass is in it: each of ``own``'s
        banks has its ``grad`` at the end.

        A bank is reduced once its gradient is whole, beside what the backward pass still does.
        """
        waiting = dict(self.banks)

        def reduce(name: str) -> None:
            if self._beside:
                self._beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._beside):
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
        for name in [*waiting]:  # no gradient came
            reduce(name)
        if self._beside:
            torch.cuda.current_stream().wait_stream(self._beside)

    def reduce_small(self, nats: Tensor) -> Tensor:
        """Sum over ranks the gradients of all but the banks, in one buffer, and ``nats``.

        Args:
            nats: () fp32; its sum is returned.
        """
        return nats if self._small is None else self._small.sum_(nats, self.world)

    def norm(self) -> Tensor:
        """() fp32: the global norm of all ranks' gradients, the same bits on each of them."""
        gradients = {name: p.grad for name, p in self.own.items() if p.grad is not None}
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        if self.banks:
            dealt = [place for place, name in enumerate(gradients) if name in self.banks]
            norms[dealt] = self.world.sum_(norms[dealt].square()).sqrt()
        return norms.norm()

    def gather(self) -> None:
        """Let the model hold what each rank made of its own."""
        for bank in self.banks.values():
            bank.gather(bank.own, bank.parameter.detach())

    def join(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors of every rank's own.

        Args:
            own: by name, of which the last part is a parameter's: shaped as that of ``own``.
        """
        whole = dict(own)
        for name, tensor in own.items():
            if bank := self._bank(name):
                whole[name] = bank.gather(tensor, torch.empty_like(bank.parameter))
        return whole

    def cut(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's own of whole tensors; what has a bank's name, not its shape, is left out."""
        own = dict(whole)
        for name, tensor in whole.items():
            if bank := self._bank(name):
                del own[name]
                if tensor.shape == bank.parameter.shape:
                    own[name] = bank.cut(tensor)
        return own

    def _bank(self, name: str) -> BankShard | None:
        return self.banks.get(name.rpartition(".")[2])
