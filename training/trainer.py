"""What a run is made of, one step of it, and its state for checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from data.loader import BatchLoader
from data.shards import TokenStream
from errors import InputError
from kernels import operations
from model.gpt import GPT
from runtime.device import choose
from runtime.graphs import CapturedMicroBatches, MicroBatches
from runtime.ranks import World
from settings import Settings
from swarm.levers import UNREACHED
from training.averaging import Averaging, ExponentialAverage, Join, LatestAverage
from training.device_levers import Levers
from training.fused_optimizer import FusedOptimizer
from training.optimizer import Optimizer
from training.parallel import Shards
from training.schedule import Moment
from training.token_weights import embedding_gain, target_weight
from training.update import FusedUpdate, Update


class Trainer:
    """Model, optimizer, averages, data and levers of one run on one rank.

    Args:
        settings: of the run; ``backend`` and ``dtype`` may be "auto".
        stream: the training tokens.
        world: this rank's place.
        scores: (V,) fp32 of the tokens, of a knowledge graph; None: no graph.
    """

    def __init__(
        self,
        settings: Settings,
        stream: TokenStream,
        world: World,
        scores: np.ndarray | None = None,
    ) -> None:
        self.settings, self.world = settings, world
        self.backends = choose(settings, world.device)
        backend = self.backends.backend
        torch.manual_seed(settings.seed)
        self.model = GPT(
            settings.architecture(),
            operations(backend, self.backends.attention),
            dtype=self.backends.dtype,
            max_seq_len=max(settings.train_seq_len, settings.eval_seq_len),
            seed=settings.seed,
            fake_step_floor=settings.quant_min_step,
            embedding_gain=None if scores is None else embedding_gain(scores, settings.kg_init),
        ).to(world.device)
        self.scores = None if scores is None else torch.from_numpy(scores).to(world.device)
        self.forward = (
            torch.compile(self.model, dynamic=False, fullgraph=True)
            if backend == "compiled"
            else self.model
        )
        self.shards = Shards(self.model, world)
        self.averaging = make_averaging(
            settings,
            {name: self.shards.own[name] for name in exported(self.model)},
            self.shards.join,
        )
        self.levers = Levers(world.device)
        accumulation = settings.accumulation(world.size)
        captured = backend == "kernels" and world.device.type == "cuda"
        self.micro_batches = (CapturedMicroBatches if captured else MicroBatches)(
            self._forward,
            list(self.model.parameters()),
            1 / (accumulation * world.size),
            self.shards.reducing if world.size > 1 else None,
        )
        self.update = self._make_update()
        self._room: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        # For copies of what an update leaves, beside the next step; the next update waits for them.
        self.outgoing = torch.cuda.Stream(world.device) if world.device.type == "cuda" else None
        self.loader = BatchLoader(
            stream,
            seq_len=settings.train_seq_len,
            batch_tokens=settings.train_batch_tokens,
            accumulation=accumulation,
            rank=world.rank,
            world_size=world.size,
            seed=settings.seed,
            device=world.device,
        )

    def _make_update(self) -> Update | FusedUpdate:
        """On a GPU the fused one, whatever the model's operations: it is the same optimizer."""
        common, shards = (self.model, self.settings, self.backends.dtype), self.shards
        if self.world.device.type != "cuda":
            optimizer = Optimizer(*common, shards.own)
            return Update(optimizer, self.averaging, self.levers, shards)
        averages = self.averaging.exponential
        optimizer = FusedOptimizer(*common, averages, self.levers, shards)
        return FusedUpdate(optimizer, self.averaging, shards, self.micro_batches.pool)

    def step(self, step: int, moment: Moment) -> Tensor:
        """Forward, backward, reduction over ranks, and update of one step.

        Returns:
            (3 + 6 groups,) fp32 on the device, as ``Update`` has it, over the whole batch. A
            replay's lie where the last one's did; ``outgoing`` may copy them until the next update.
        """
        self._set_levers(moment)
        self.levers.push()
        nats = self.micro_batches.all(self.loader.next_step())
        self._await_outgoing()
        return self.update(nats, step + 1, self.micro_batches.steady)

    def _set_levers(self, moment: Moment) -> None:
        """What settings and schedule say; what the swarm decided stands over it."""
        settings, levers = self.settings, self.levers
        levers.set(
            clip=settings.grad_clip_norm,
            mtp_weight=settings.mtp_loss_weight,
            kg_weight=settings.kg_loss_weight,
            qat=moment.qat,
            momentum=moment.momentum,
            decay_factor=1.0,
            skip_norm=UNREACHED,
            averaging_decay=settings.ema_decay,
            lr_scale=moment.lr_scale * levers.values["lr_factor"],
        )

    def _forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and nats of a micro-batch; what changes from step to step is read from levers."""
        settings, levers = self.settings, self.levers
        mtp_weight = levers["mtp_weight"] if settings.mtp_num_heads else None
        qat = levers["qat"] if settings.late_qat_threshold else None
        weight = None
        if self.scores is not None and settings.kg_loss_weight:
            weight = target_weight(self.scores, levers["kg_weight"])
        return self.forward(tokens, targets, mtp_weight, qat, weight)

    def warm_up(self, steps: int) -> None:
        """Run steps that compile and allocate, then undo all that they changed."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors().items()}
        state = self.state()
        moment = Moment(progress=0.0, lr_scale=1.0, momentum=0.9, qat=False)
        if steps and self.world.device.type == "cuda":
            from kernels.common.compiling import (
                side_by_side,  # needs Triton, which a CPU can do without
            )

            with side_by_side():
                self.step(0, moment)
        for step in range(steps):
            self.step(step, moment)
        self.load(tensors, state)
        if self.world.device.type == "cuda":
            # The run's clock starts next: it must not pay for steps that were only launched.
            torch.cuda.synchronize()

    def tensors(self) -> dict[str, Tensor]:
        """All state that is tensors, by name: whole, so all ranks must ask; on one rank live."""
        return (
            self.shards.join(self._weights_and_moments() | self.averaging.tensors())
            | random_state()
        )

    def state(self) -> dict[str, int]:
        """All state that is numbers."""
        return {"position": self.loader.position}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, int]) -> None:
        """Take back what ``tensors`` and ``state`` gave, on any number of ranks, bit for bit.

        Raises:
            InputError: they are of another network.
        """
        tensors = self.shards.cut(tensors)
        for name, tensor in self._weights_and_moments().items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise InputError(
                    f"the checkpoint's {name} does not fit these settings; resume with those that "
                    "the run was started with"
                )
            tensor.copy_(tensors[name])
        self.shards.gather()
        self.averaging.load(tensors)
        self.loader.position = state["position"]
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if "random.cuda" in tensors and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu())

    def make_room(self) -> None:
        """Allocate what ``keep`` copies to, where it is not there yet: pinned memory on a GPU.

        0.22 GB of it for preset ``seed``, which takes longer than a step: not for a run's middle.
        """
        if not self._room:
            pinned = self.outgoing is not None
            self._room = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=pinned)
                for name, tensor in self._weights_and_moments().items()
            }

    def keep(self) -> None:
        """Copy weights and moments to the host's memory, to return to; averages are left out, for
        what a copy costs the device are its bytes.

        On a GPU beside the next step's forward and backward passes, which only read them: at the
        pace of PCIe, so that they find the device's memory all but free.
        """
        self.make_room()
        if self.outgoing:
            self.outgoing.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.outgoing):
            self._kept = {
                name: self._room[name].copy_(tensor, non_blocking=True)
                for name, tensor in self._weights_and_moments().items()
            }

    def _await_outgoing(self) -> None:
        """Let the device finish all copies before anything that they copy changes."""
        if self.outgoing:
            torch.cuda.current_stream().wait_stream(self.outgoing)

    def roll_back(self) -> None:
        """Take back what ``keep`` copied last; averages begin anew from it. Batches go on: those
        that led astray stay behind."""
        self._await_outgoing()
        for name, tensor in self._weights_and_moments().items():
            tensor.copy_(self._kept[name])
        self.shards.gather()
        self.averaging.begin_anew()

    def _weights_and_moments(self) -> dict[str, Tensor]:
        """Live, this rank's own; they are there in every run from the start."""
        own = {f"model.{name}": tensor.detach() for name, tensor in self.shards.own.items()}
        return own | self.update.tensors()

    def close(self) -> None:
        """End the loader's thread and let the graphs go; the model stays, to be scored."""
        self.loader.close()
        self.micro_batches.close()
        self.update.close()

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the model hold other weights, by name, for a while; those not named stay.

        Rank 0's count: other ranks receive them.
        """
        live = exported(self.model)
        before = {name: live[name].detach().clone() for name in live}
        with torch.no_grad():
            for name, parameter in live.items():
                parameter.copy_(weights.get(name, parameter))
                self.world.broadcast_(parameter.data)
        yield
        with torch.no_grad():
            for name, parameter in live.items():
                parameter.copy_(before[name])


def exported(model: GPT) -> dict[str, Tensor]:
    """The weights that an artifact holds: all but the MTP heads."""
    return {name: p for name, p in model.named_parameters() if not name.startswith("mtp")}


def make_averaging(settings: Settings, weights: Mapping[str, Tensor], join: Join) -> Averaging:
    """The averaging that the settings ask for."""
    if settings.averaging == "ema":
        return ExponentialAverage(weights, settings.ema_decay, join)
    if settings.averaging == "lawa":
        return LatestAverage(weights, settings.lawa_k, settings.lawa_freq, join)
    return Averaging()


def random_state() -> dict[str, Tensor]:
    """The random generators' states, uint8."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states
