"""What a run is made of, one step of it, and its state for checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from data.loader import BatchLoader
from data.shards import TokenStream
from errors import InputError
from kernels import operations
from model.gpt import GPT
from settings import Settings
from swarm.levers import Levers
from training.averaging import Averaging, ExponentialAverage, LatestAverage
from training.backends import choose
from training.captured import CapturedMicroBatches, MicroBatches
from training.optimizer import Optimizer, clip_
from training.schedule import Moment
from training.world import World


class Trainer:
    """Model, optimizer, averages, data and levers of one run on one rank.

    Args:
        settings: of the run; ``backend`` and ``dtype`` may be "auto".
        stream: the training tokens.
        world: this rank's place.
    """

    def __init__(self, settings: Settings, stream: TokenStream, world: World) -> None:
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
        ).to(world.device)
        self.forward = (
            torch.compile(self.model, dynamic=False, fullgraph=True)
            if backend == "compiled"
            else self.model
        )
        self.optimizer = Optimizer(self.model, settings, self.backends.dtype)
        accumulation = settings.accumulation(world.size)
        captured = backend == "kernels" and world.device.type == "cuda"
        self.micro_batches = (CapturedMicroBatches if captured else MicroBatches)(
            self._forward, self.optimizer.parameters, 1 / (accumulation * world.size)
        )
        self.averaging = make_averaging(settings, exported(self.model))
        self.levers = Levers(world.device)
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

    def step(self, step: int, moment: Moment) -> Tensor:
        """Forward, backward, reduction, clip and update of one step.

        Returns:
            (2,) fp32 on the device: mean nats of the main head over the whole batch, and the
            gradients' global norm before the clip.
        """
        settings, levers = self.settings, self.levers
        levers.set(
            clip=settings.grad_clip_norm, mtp_weight=settings.mtp_loss_weight, qat=moment.qat
        )
        levers.push()
        nats = self._backward()
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        for tensor in (*gradients, nats):
            self.world.sum_(tensor)
        norm = clip_(gradients, levers["clip"])
        self.optimizer.step(moment.lr_scale, moment.momentum)
        self.averaging.update(step + 1)
        self.micro_batches.clear()
        return torch.stack((nats, norm))

    def _backward(self) -> Tensor:
        """Gradients of this rank's share of the batch; its share of the mean nats, () fp32."""
        total = torch.zeros((), device=self.world.device)
        for tokens, targets in self.loader.next_step():
            total += self.micro_batches.add(tokens, targets)
        return total

    def _forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and nats of a micro-batch; what changes from step to step is read from levers."""
        mtp_weight = self.levers["mtp_weight"] if self.settings.mtp_num_heads else None
        qat = self.levers["qat"] if self.settings.late_qat_threshold else None
        return self.forward(tokens, targets, mtp_weight, qat)

    def warm_up(self, steps: int) -> None:
        """Run steps that compile, allocate and tune, then undo all that they changed."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors().items()}
        state = self.state()
        for step in range(steps):
            self.step(step, Moment(progress=0.0, lr_scale=1.0, momentum=0.9, qat=False))
        self.load(tensors, state)
        if self.world.device.type == "cuda":
            # The run's clock starts next: it must not pay for steps that were only launched.
            torch.cuda.synchronize()

    def tensors(self) -> dict[str, Tensor]:
        """All state that is tensors, live, by name."""
        model = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        return model | self.optimizer.tensors() | self.averaging.tensors() | random_state()

    def state(self) -> dict[str, int]:
        """All state that is numbers."""
        return {"position": self.loader.position, "adamw_steps": self.optimizer.adamw.steps}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, int]) -> None:
        """Take back what ``tensors`` and ``state`` gave, bit for bit.

        Raises:
            InputError: they are of another network.
        """
        live = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        live |= self.optimizer.tensors()
        for name, tensor in live.items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise InputError(
                    f"the checkpoint's {name} does not fit these settings; resume with those that "
                    "the run was started with"
                )
            tensor.copy_(tensors[name])
        self.averaging.load(tensors)
        self.loader.position = state["position"]
        self.optimizer.adamw.steps = state["adamw_steps"]
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if "random.cuda" in tensors and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu())

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


def make_averaging(settings: Settings, weights: Mapping[str, Tensor]) -> Averaging:
    """The averaging that the settings ask for."""
    if settings.averaging == "ema":
        return ExponentialAverage(weights, settings.ema_decay)
    if settings.averaging == "lawa":
        return LatestAverage(weights, settings.lawa_k, settings.lawa_freq)
    return Averaging()


def random_state() -> dict[str, Tensor]:
    """The random generators' states, uint8."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states
