"""Score-first test-time training of the weights (parameter-golf PR #549).

The split is cut into chunks. Each chunk is first scored by sliding windows, in inference mode, then
used for SGD; the last chunk is only scored. So every token's score is final before any weight that
was updated on the token is used.

The ranks share a chunk's windows and each step's batch. One collective sums all gradients, so that
every rank takes the same step; the number of ranks changes only the order of sums.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from evaluation.score import Score, ScoreFunction, Scoring, Split, Tally, Tokens, to_device
from evaluation.ttt.frozen import batch_of, check_learning, frozen_rows
from evaluation.ttt.learner import Learner
from evaluation.windows import WindowPlan, cut, score_windows
from model.gpt import GPT
from model.parameters import exported
from runtime.graphs import EAGER_CALLS, CapturedStep, Graphs
from runtime.micro_batches import MicroBatch, MicroBatches
from runtime.ranks import World
from settings.ttt import TttSettings


def score_first(
    score_fn: ScoreFunction,
    learner: Learner,
    split: Split,
    plan: WindowPlan,
    chunk_tokens: int,
    scoring: Scoring,
) -> Score:
    """Score a split in chunks; the learner is updated on each but the last once it is scored.

    Args:
        score_fn, split, plan: as for `evaluation.windows.evaluate`.
        learner: of the weights that ``score_fn`` reads.
        chunk_tokens: of a chunk, a multiple of ``plan.seq_len``.
        scoring: the ranks; ``progress`` counts chunks.

    Raises:
        InputError: as ``evaluate``.
    """
    world, length = scoring.world, plan.seq_len
    windows = cut(split, plan)
    share = math.ceil(math.ceil(chunk_tokens / plan.stride) / world.size)
    batch = min(share, plan.batch)
    tally = Tally(split, scoring)
    chunks = math.ceil(windows.targets / chunk_tokens)
    first = 0
    for chunk in range(chunks):
        begin = chunk * chunk_tokens
        last = windows.begun_before(min(begin + chunk_tokens, windows.targets))
        score_windows(score_fn, split.stream, windows, (first, last), batch, tally)
        if chunk + 1 < chunks:
            rows = chunk_windows(split.stream, begin, chunk_tokens, length, world.device)
            learner.update(*rows, cosine(chunk, chunks))
        first = last
        if scoring.progress:
            scoring.progress(chunk + 1, chunks)
    return tally.score()


def cosine(chunk: int, chunks: int) -> float:
    """Return the factor of the learning rate on a chunk: from 1, it would be 0 on the last."""
    return 0.5 * (1 + math.cos(math.pi * chunk / (chunks - 1)))


def chunk_windows(
    stream: Tokens, begin: int, size: int, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return tokens (size / length, length + 1) int32 from ``begin`` on; positions of targets."""
    starts = torch.arange(0, size, length, device=device)[:, None]
    offsets = starts + torch.arange(length + 1, device=device)
    tokens = to_device(stream.read(begin, size + 1).astype(np.int32), device)[offsets]
    return tokens, begin + offsets[:, 1:]


class WeightLearner:
    """SGD with momentum on a model's weights; ``learning_weights`` makes it.

    Args:
        model: whose weights are updated, all but the frozen.
        forward: the model, or its compiled form.
        graphs: records the two graphs of a step, of which one makes the gradients and the other
            combines them over ranks; None: every step runs launch by launch.
        settings: rate, momentum, clip, epochs, batch, what is frozen.
        seq_len: tokens of a window.
        world: the ranks that share each batch.

    Raises:
        InputError: as `evaluation.ttt.frozen.check_learning`.
    """

    def __init__(
        self,
        model: GPT,
        forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        graphs: Graphs | None,
        settings: TttSettings,
        seq_len: int,
        world: World,
    ) -> None:
        self.settings, self.world, self.score = settings, world, model.score
        weights = exported(model)
        check_learning(settings, model.config, seq_len, world.size)
        self.parameters = [p for name, p in weights.items() if name not in settings.ttt_freeze]
        self.frozen_rows = {
            weights[name]: rows
            for name, rows in frozen_rows(model.config, settings.ttt_freeze_blocks).items()
            if name in weights and name not in settings.ttt_freeze
        }
        self.batch = batch_of(settings, seq_len)
        nats = torch.zeros((), device=world.device)
        self.micro_batches = MicroBatches(forward, self.parameters, 1 / world.size, nats)
        self.combine = CapturedStep(self._combine)
        self.graphs = graphs
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=settings.ttt_lr, momentum=settings.ttt_momentum, foreach=True
        )

    @contextmanager
    def required(self) -> Iterator[None]:
        """Let the weights that learn require gradients, in a block where no weight does."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(False)

    def tensors(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.parameters]

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.ttt_lr * lr_scale
        share = self.batch // self.world.size
        for _ in range(self.settings.ttt_epochs):
            for batch in tokens.split(self.batch):
                self._step(batch[self.world.rank * share :][:share])

    def _step(self, tokens: Tensor) -> None:
        """Take one step on this rank's windows (share, T + 1) of a batch."""
        batches = [(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())]
        if self.graphs and not self.combine.captured:
            self._capture(self.graphs, batches)
        self.micro_batches.accumulate(batches)
        self.combine()
        self.optimizer.step()

    def _capture(self, graphs: Graphs, batches: Sequence[MicroBatch]) -> None:
        """Record both graphs of a step; the next ``accumulate`` sets the gradients.

        Warm-ups of the second graph change the gradients, which hold no values yet.
        """
        graphs.compile(lambda: self.micro_batches.accumulate(batches))
        self.micro_batches.prepare(graphs, batches)
        for _ in range(EAGER_CALLS):
            graphs.eagerly(self.combine)
        self.combine.capture(graphs)

    def _combine(self) -> Tensor:
        """Sum ``.grad`` over ranks, zero it in frozen layers, clip it; return its norm before."""
        gradients = {p: p.grad for p in self.parameters if p.grad is not None}
        self.world.sum_all_([*gradients.values()])
        for parameter, gradient in gradients.items():
            for rows in self.frozen_rows[parameter]:
                gradient[rows].zero_()
        if clip := self.settings.ttt_grad_clip:
            return torch.nn.utils.clip_grad_norm_(self.parameters, clip, foreach=True)
        # PyTorch warns of a graph without launches.
        return torch.nn.utils.get_total_norm(gradients.values(), foreach=True)

    def close(self) -> None:
        """Release the graphs; further steps launch every kernel."""
        self.combine.release()
        self.micro_batches.close()


@contextmanager
def learning_weights(
    model: GPT, backend: str, settings: TttSettings, seq_len: int, world: World
) -> Iterator[WeightLearner]:
    """Yield a learner of the model's weights; restore them bit for bit when the block ends.

    Args:
        model: on ``world.device``.
        backend: as ``kernels.operations`` takes it; ``compiled`` compiles the forward pass.
        settings: of the method.
        seq_len: tokens of a window that is learned.
        world: the ranks.
    """
    before = {p: (p.detach().clone(), p.requires_grad) for p in model.parameters()}
    forward = model
    if backend == "compiled":
        forward = torch.compile(model, dynamic=False, fullgraph=True)
    graphs = Graphs.of(backend, world.device)
    learner = WeightLearner(model, forward, graphs, settings, seq_len, world)
    learning = set(learner.parameters)
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in learning)
        yield learner
    finally:
        learner.close()
        with torch.no_grad():
            for parameter, (value, required) in before.items():
                parameter.copy_(value)
                parameter.requires_grad_(required).grad = None
