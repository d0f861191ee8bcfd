"""The trainer: builds everything that a training step needs, and takes steps."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch, BatchShape
from data.loader import BatchLoader
from data.shards import TokenStream
from kernels import operations
from model.gpt import GPT
from model.parameters import exported
from runtime.device import Backends
from runtime.graphs import Graphs
from runtime.micro_batches import Forward, MicroBatches
from runtime.ranks import World
from runtime.startup import Done, unmeasured
from settings import Settings
from settings.variants import Variant, accumulation_of, reachable
from swarm.levers import FURTHER_TARGETS
from training.averaging import decay_at, lean_at, longest_decay, make_averaging
from training.captured_steps import CapturedSteps
from training.device_levers import DeviceLevers
from training.forward import forward_of
from training.fused_optimizer import FusedOptimizer
from training.measures import Measured, Measures, probes_of
from training.optimizer import Optimizer
from training.parallel import Shards
from training.plain_optimizer import PlainOptimizer
from training.resizing import shrink
from training.schedule import Moment, further_weights, remembering
from training.snapshots import Snapshots
from training.state import TrainingState
from training.token_weights import embedding_gain, target_weight
from training.update import Update


class Trainer:
    """Model, optimizer, averages, data and levers of a run on one rank.

    Attributes:
        variants: those that the run may take, the last stage's first.
        steps: of each variant.
        state: what a checkpoint holds.
        snapshots: the copy of weights and moments that a run which diverged returns to.
        probes: how often a run scores ``held_out``.
        held_out: windows of the training tokens that no step takes; None: there are none.
        outgoing: stream of copies to the host that overlap with the next step, and that the next
            update waits for; None on a CPU.

    Args:
        settings: of the run.
        stream: the training tokens.
        world: the ranks.
        backends: of `runtime.device.choose`.
        scores: (V,) fp32, the knowledge graph's scores of tokens; None: no graph.
        reads: names of the signals that the run's agents read.
        edges: (2, E), the pairs that own rows of the bigram table; None: it is hashed.
    """

    def __init__(
        self,
        settings: Settings,
        stream: TokenStream,
        world: World,
        backends: Backends,
        scores: np.ndarray | None = None,
        reads: Iterable[str] = (),
        edges: np.ndarray | None = None,
    ) -> None:
        self.settings, self.world, self.backends = settings, world, backends
        torch.manual_seed(settings.seed)
        self.model = self._make_model(scores, edges)
        self.scores = None if scores is None else torch.from_numpy(scores).to(world.device)
        self.shards = Shards(self.model, world)
        own = {name: self.shards.own[name] for name in exported(self.model)}
        self.averaging = make_averaging(settings, own, self.shards.join)
        self.levers = DeviceLevers(settings, world.device)
        self.variants = reachable(settings)
        nats = torch.zeros((), device=world.device)
        reads = set(reads)
        windows = nats.new_zeros(2, dtype=torch.float64) if "window_spread" in reads else None
        self.update = self._make_update(nats, windows, reads)
        self.steps = CapturedSteps(
            {variant: self._make_gradients(variant, nats, windows) for variant in self.variants},
            self.update,
            Graphs.of(backends.backend, world.device),
        )
        self.outgoing = torch.cuda.Stream(world.device) if world.device.type == "cuda" else None
        self.probes = probes_of(settings, reads)
        self.held_out = None
        if self.probes or settings.readout:
            from training.held_out import HeldOut  # a contest's file may leave it out

            self.held_out = HeldOut(stream, settings, world)
        self.loader = self._make_loader(self.held_out.rest if self.held_out else stream)
        self.state = TrainingState(self.shards, self.update, self.averaging, self.loader)
        self.snapshots = Snapshots(self.state, self.outgoing)

    def _make_model(self, scores: np.ndarray | None, edges: np.ndarray | None) -> GPT:
        settings, backends = self.settings, self.backends
        return GPT(
            settings.architecture(),
            operations(backends.backend, backends.attention),
            dtype=backends.dtype,
            max_seq_len=max(settings.eval_seq_len, *(v.seq_len for v in reachable(settings))),
            seed=settings.seed,
            fake_step_floor=settings.quant_min_step,
            embedding_gain=None if scores is None else embedding_gain(scores, settings.kg_init),
            edges=None if edges is None else torch.from_numpy(edges),
        ).to(self.world.device)

    def _make_gradients(
        self, variant: Variant, nats: Tensor, windows: Tensor | None
    ) -> MicroBatches:
        accumulation = accumulation_of(variant, self.settings, self.world.size)
        return MicroBatches(
            self._make_forward(variant),
            list(self.model.parameters()),
            1 / (accumulation * self.world.size),
            nats,
            self.shards.reducing if self.world.size > 1 else None,
            windows,
        )

    def _make_forward(self, variant: Variant) -> Forward:
        """Return the forward pass of a variant, whose loss depends on the levers."""
        settings, levers, scores = self.settings, self.levers, self.scores
        model = forward_of(self.model, variant, self.backends.backend == "compiled")
        mtp_weight = levers["mtp_weight"] if variant.heads else None
        qat = levers["qat"] if settings.late_qat_threshold else None
        further = [levers[name] for name in FURTHER_TARGETS[: settings.mtp_targets]]

        def forward(
            tokens: Tensor, targets: Tensor, bounds: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            weight = None
            if scores is not None and settings.kg_loss_weight:
                weight = target_weight(scores, levers["kg_weight"])
            return model(
                tokens,
                targets,
                bounds=bounds,
                mtp_weight=torch.stack(further) if further else mtp_weight,
                qat=qat,
                target_weight=weight,
            )

        return forward

    def _make_loader(self, stream: TokenStream) -> BatchLoader:
        settings, world, sieve = self.settings, self.world, None
        shapes = [batch_shape(variant, settings, world.size) for variant in self.variants]
        if settings.skips_noise:
            from data.sieve import Sieve  # a contest's file may leave it out

            lengths = {shape.seq_len for shape in shapes}
            sieve = Sieve(stream, settings.vocab_size, lengths)
        return BatchLoader(
            stream,
            shapes,
            rank=world.rank,
            world_size=world.size,
            seed=settings.seed,
            bos_id=settings.bos_id,
            device=world.device,
            sieve=sieve,
        )

    def _make_update(self, nats: Tensor, windows: Tensor | None, reads: set[str]) -> Update:
        """Return the update: fused on a GPU, with any backend of the model."""
        common, shards = (self.model, self.settings, self.backends.dtype), self.shards
        if self.world.device.type == "cuda":
            averages = self.averaging.exponential
            optimizer = FusedOptimizer(*common, averages, self.levers, shards)
        else:
            plain = Optimizer(*common, shards.own)
            measured = "update_ratios" in reads
            optimizer = PlainOptimizer(plain, self.averaging, self.levers, shards, measured)
        kept, name = optimizer.tensors(), "muon.momentum."
        momentum = {each[len(name) :]: kept[each] for each in kept if each.startswith(name)}
        of = Measured(self.model.config, shards, momentum, self.levers["momentum"], windows)
        return Update(optimizer, self.averaging, shards, nats, Measures(reads, of))

    def prepare(self, moment: Moment, done: Done = unmeasured) -> None:
        """Compile and capture the steps of every variant; takes steps, which the caller undoes.

        ``done`` is called as by ``CapturedSteps.prepare``.
        """
        self._schedule_levers(moment, step=0)
        self.levers.push()
        self.steps.prepare(self._next_batches, done)

    def step(self, step: int, moment: Moment, variant: Variant | None = None) -> Tensor:
        """Take one step: forward, backward, reduction over ranks, update.

        Args:
            step: its number, from 0.
            moment: the schedule there.
            variant: what the step computes; None: the last stage's.

        Returns:
            fp32 on the device, as ``Update`` returns it, over the whole batch. The next replay
            writes to the same memory; ``outgoing`` may copy it until the next update.

        Raises:
            KeyError: the variant is none of ``variants``.
        """
        variant = self.variants[0] if variant is None else variant
        self._schedule_levers(moment, step)
        self.levers.push()
        batches = self._next_batches(variant)
        numbers = self.steps.step(variant, batches, step + 1, self.snapshots.wait)
        self.averaging.move_others(step + 1, moment.progress)
        return numbers

    def _next_batches(self, variant: Variant) -> list[Batch]:
        return self.loader.next_step(batch_shape(variant, self.settings, self.world.size))

    def _schedule_levers(self, moment: Moment, step: int) -> None:
        """Set the levers that the schedule changes."""
        levers = self.levers
        longest = longest_decay(self.settings, step, moment.progress)
        decay = decay_at(longest, step + 1)
        levers.schedule(
            qat=moment.qat,
            momentum=remembering(moment.momentum, levers.value("memory")),
            lr_scale=moment.lr_scale * levers.value("lr_factor") * levers.value("lr_fit"),
            averaging_decay=decay,
            lean=lean_at(moment.lean, decay),
        )
        weights = further_weights(self.settings.mtp_targets, moment.progress)
        levers.schedule(**dict(zip(FURTHER_TARGETS, weights, strict=False)))

    def shrink_weights(self) -> None:
        """Give matrices that are far too large their first norm; averages restart."""
        self.snapshots.wait()
        shrink(self.model.config, self.shards)
        self.shards.gather()
        self.averaging.restart()

    def close(self) -> None:
        """End the loader's thread and release the graphs; the model stays, to be scored."""
        self.loader.close()
        self.steps.close()


def batch_shape(variant: Variant, settings: Settings, ranks: int) -> BatchShape:
    """Return the shape of a variant's batches."""
    parts = accumulation_of(variant, settings, ranks)
    return BatchShape(variant.batch_tokens, variant.seq_len, parts, variant.documents)
