"""The ranks of a run, and the few collective operations that training and evaluation need."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from errors import InputError
from runtime.launch import check_meeting, ranks_of, waiting
from runtime.peers import Peers
from runtime.signals import Interruption

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# Both have been renamed in torch 2.13; the old names warn there.
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True)
class World:
    """One rank's view of all ranks.

    ``control`` is a gloo group for values on the host (the clock, a signal), so that agreeing on
    them never waits for the GPU. None is the default group, which is gloo on a CPU. ``peers``
    tells other ranks what a collective cannot; None: there are none.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    peers: Peers | None = None

    @classmethod
    def single(cls, device: torch.device) -> "World":
        """Return the world of one process, without a process group."""
        return cls(rank=0, size=1, device=device)

    @classmethod
    def start(cls, device_type: str) -> "World":
        """Join the ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), if it did.

        Args:
            device_type: "cuda" (NCCL, one GPU a rank) or "cpu" (gloo).

        Raises:
            InputError: they are not as torchrun sets them.
        """
        ranks, local_rank = ranks_of(os.environ), int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cpu")
        if device_type == "cuda":
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        if ranks == 1:
            return cls.single(device)
        check_meeting(os.environ)
        on_gpu, control = device.type == "cuda", None
        with waiting(ranks):
            store, rank, size = next(dist.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                timeout=COLLECTIVE_TIMEOUT,
                world_size=size,
                rank=rank,
                store=store,
                device_id=device if on_gpu else None,
            )
        if on_gpu:
            control = cast(
                dist.ProcessGroup, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
            )
        return cls(rank, size, device, control, Peers(store, rank, size))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks to the terminal."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum ``tensor`` over all ranks in place; return it."""
        if self.size > 1:
            self._meet()
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    @torch.no_grad()
    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each of ``tensors`` over all ranks in place, by one collective on a copy of them all.

        Args:
            tensors: one or more, of one dtype and device; every rank has the same shapes in order.
        """
        if self.size == 1:
            return
        flat = self.sum_(torch.cat([tensor.flatten() for tensor in tensors]))
        sums = flat.split([tensor.numel() for tensor in tensors])
        shaped = [part.view_as(tensor) for part, tensor in zip(sums, tensors, strict=True)]
        torch._foreach_copy_([*tensors], shaped)

    def reduce_scatter(self, own: Tensor, parts: Tensor) -> Tensor:
        """Write this rank's part of the sum of ``parts`` over all ranks to ``own``; return it.

        Args:
            own: (n, ...).
            parts: (size * n, ...), contiguous.
        """
        self._meet()
        REDUCE_SCATTER(own, parts, op=dist.ReduceOp.SUM)
        return own

    def all_gather(self, parts: Tensor, own: Tensor) -> Tensor:
        """Write every rank's ``own`` (n, ...) to ``parts`` (size * n, ...), in order; return it.

        ``own`` may be this rank's slice of ``parts``, which saves a copy.
        """
        self._meet()
        ALL_GATHER(parts, own)
        return parts

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """Write rank 0's values to ``tensor`` on every rank; return it."""
        if self.size > 1:
            self._meet()
            dist.broadcast(tensor, src=0)
        return tensor

    def agree(self, elapsed: float, interrupted: bool) -> tuple[float, bool]:
        """Return rank 0's clock, and whether any rank was interrupted; the same on every rank.

        The hosts communicate; nothing waits for a GPU.
        """
        if self.size == 1:
            return elapsed, interrupted
        self._meet()
        block = torch.tensor([elapsed if self.is_main else 0.0, interrupted], dtype=torch.float64)
        dist.all_reduce(block, op=dist.ReduceOp.MAX, group=self.control)
        return block[0].item(), bool(block[1].item())

    def gathered(self, value: T) -> list[T]:
        """Return each rank's value, in order, the same list on every rank."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            self._meet()
            dist.barrier(group=self.control)

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that an error or a signal ends this one, and let them end first.

        Does not return if another rank was the first. A note on the error says which rank it is.
        """
        if self.peers:
            number = error.signal_number if isinstance(error, Interruption) else 0
            self.peers.end(number, wait=isinstance(error, InputError | OSError))
            error.add_note(f"on rank {self.rank} of {self.size}")

    def stop(self) -> None:
        """Leave the process group, from which no rank has failed."""
        if self.peers:
            self.peers.stop()
            dist.destroy_process_group()

    def _meet(self) -> None:
        if self.peers:
            self.peers.met += 1
