"""Low-rank adapters of each document's own (LoRA, Hu et al. 2021, arXiv:2106.09685).

``y = W x`` becomes ``y + alpha / rank * up (down x)``, where every row of a batch has its own
``down`` (rank, in) and ``up`` (out, rank). They learn while the document is scored and are
forgotten after it, as in parameter-golf's test-time training by LoRA. The weights stay.

``AddAdapters`` is a hook that adds them to the network's products, on any backend.
"""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor

from evaluation.ttt.chunk_steps import ChunkSteps, ReplayedByShape
from evaluation.ttt.reader import Reader
from evaluation.ttt.row_optimizer import RowOptimizer
from evaluation.ttt.tilt import tilted
from model.gpt import GPT
from model.hooks import Site
from runtime.graphs import Graphs
from runtime.ranks import World
from settings import Settings


class Adapters:
    """Adapters of a batch of documents, for ``document_adapters`` to make.

    Attributes:
        choices: ``score`` takes several choices of targets; an audit asks before it gives them.
        down: by matrix, (visits, D, rank, in) fp32; the same for every document at its beginning.
        up: by matrix, (visits, D, out, rank) fp32; zero at the beginning, so they add nothing.
        reader: of the documents.

    Args:
        model: whose products the adapters are added to.
        settings: rank, matrices, optimizer, documents at once.
        world: the ranks, which learn the first ``down`` together.
        graphs: records the steps of chunks; None: they run launch by launch.
    """

    choices = True

    def __init__(
        self, model: GPT, settings: Settings, world: World, graphs: Graphs | None = None
    ) -> None:
        self.settings, self.world = settings, world
        config, rank, device = model.config, settings.ttt_lora_rank, world.device
        width, self.documents = config.model_dim, settings.ttt_lora_documents
        longest = max(settings.ttt_lora_chunk, settings.ttt_lora_chunk_most)
        self.reader = Reader(model, settings.eval_seq_len, self.documents, longest)
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(settings.seed)
        self.initial: dict[str, Tensor] = {}
        for name in settings.ttt_lora_matrices:
            visits = 1 if name == "head" else len(model.plan)
            drawn = torch.rand((visits, 1, rank, width), generator=generator) * 2 - 1
            self.initial[name] = (drawn / math.sqrt(width)).to(device)
            outputs = config.kv_dim if name in ("k", "v") else width
            # Row by row in memory, so that the first rows are one piece.
            self.down[name], self.up[name] = (
                torch.zeros(self.documents, visits, *size, device=device).transpose(0, 1)
                for size in ((rank, width), (outputs, rank))
            )
        self.optimizer = RowOptimizer(self.tensors(), settings)
        self.steps = ChunkSteps(self._read, self._learn, graphs)
        # What learns a chunk lies in the pool of ``graphs`` while an audit asks for states.
        self.replayed = ReplayedByShape(self._states, graphs)
        self.kept = [torch.zeros_like(down) for down in self.initial.values()]
        self.count = torch.zeros((), device=device)
        self.pending: tuple[list[Tensor], Tensor] | None = None
        if graphs:
            graphs.compile(self._dry_run)
        self.reset(self.documents)

    def _dry_run(self) -> None:
        """Read and learn chunks of no text: the first of documents, and one that follows it."""
        size, rows = self.settings.ttt_lora_chunk, self.documents
        for _ in range(2):
            shape = rows, self.reader.earlier + size + 1
            tokens = torch.zeros(shape, dtype=torch.int32, device=self.world.device)
            self._read(tokens)
            self._learn(tokens, torch.ones(rows, size, dtype=torch.bool, device=tokens.device))
            self.reader.advance(size)

    def close(self) -> None:
        """Release the graphs."""
        self.steps.close()
        self.replayed.captured.clear()

    def tensors(self) -> list[Tensor]:
        """Return all that an update changes, but for the optimizer's state."""
        return [*self.down.values(), *self.up.values()]

    @torch.no_grad()
    def reset(self, documents: int) -> None:
        """Forget all documents, bit for bit, in the same memory; ``documents`` follow."""
        self.documents, self.pending = documents, None
        for name, down in self.down.items():
            down.copy_(self.initial[name].expand_as(down))
            self.up[name].zero_()
        self.optimizer.reset()
        self.reader.begin()

    @torch.no_grad()
    def keep(self) -> None:
        """Add what the documents made of ``down`` to what ``warm`` takes."""
        for total, down in zip(self.kept, self.down.values(), strict=True):
            total += down[:, : self.documents].sum(1, keepdim=True)
        self.count += self.documents

    @torch.no_grad()
    def warm(self) -> None:
        """Let ``down`` begin as the mean of all ranks' documents since the last call."""
        count = self.world.sum_(self.count)
        for total, initial in zip(self.kept, self.initial.values(), strict=True):
            initial.copy_(torch.where(count > 0, self.world.sum_(total) / count, initial))
            total.zero_()
        self.count.zero_()

    def read(self, tokens: Tensor, *hints: Tensor) -> Tensor:
        """Return nats (N, S) of a chunk, and keep what ``update`` and later chunks need of it.

        Args:
            tokens: (N, E + S + 1) int32: ``Reader.earlier`` ones, the chunk's, and a target more.
            hints: (N, S) int32 that ``tilted`` takes; without them nothing is tilted.
        """
        reader = self.reader
        size = tokens.size(1) - reader.earlier - 1
        return self.steps.read(size, reader.kept, tokens, *hints)

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Train each row's adapters separately, as `evaluation.ttt.learner.Learner` says.

        Rows without a position learn nothing. ``tokens`` are as ``read`` takes them.
        """
        self.optimizer.rate.fill_(self.settings.ttt_lora_lr * lr_scale)
        self.steps.learn(tokens, positions >= 0)

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return nats of the last S targets of a chunk; tokens as for ``Reader.states``.

        Targets and nats are (N, S), or (K, N, S): K choices of them, by the same states.
        """
        states = self.reader.states(tokens, self.hook(len(tokens)))
        states = states[:, -targets.size(-1) :].expand(*targets.shape, -1)
        rows = states.flatten(0, -3).contiguous(), targets.flatten(0, -2).contiguous()
        return self.reader.nats(*rows)[1].view(targets.shape)

    def states(self, tokens: Tensor) -> Tensor:
        """Return the states (N, S, C) of a chunk, without a trace; tokens as for ``Reader.states``.

        It takes as long as a read, because its graph is recorded, too. Later calls overwrite it.
        """
        rows, size = tokens.shape
        return self.replayed((rows, size, self.reader.kept), tokens)

    def _states(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self.reader.states(tokens, self.hook(len(tokens)))

    def hook(self, rows: int, copies: list[Tensor] | None = None) -> "AddAdapters":
        """Return the hook of one forward pass, which adds the first ``rows``' adapters.

        Args:
            rows: of the batch.
            copies: what it computes with, from ``_copies``; None: it makes them.
        """
        parts = [copy.unbind() for copy in copies or self._copies(rows)]
        names, half = list(self.down), len(self.down)
        pairs = zip(parts[:half], parts[half:], strict=True)
        of_names = (list(zip(*pair, strict=True)) for pair in pairs)
        return AddAdapters(dict(zip(names, of_names, strict=True)))

    @property
    def scale(self) -> float:
        """What adapters add is multiplied by it."""
        return self.settings.ttt_lora_alpha / self.settings.ttt_lora_rank

    def _copies(self, rows: int) -> list[Tensor]:
        """Return ``tensors`` of the first rows in the compute dtype, ``up`` times ``scale``."""
        dtype = self.reader.model.dtype
        down = [bank[:, :rows].to(dtype, copy=True) for bank in self.down.values()]
        return down + [(bank[:, :rows] * self.scale).to(dtype) for bank in self.up.values()]

    def _forward(self, tokens: Tensor, keep: bool) -> tuple[list[Tensor], Tensor]:
        """Return what gets gradients, and the states (N, S, C) of which it gets them."""
        with torch.enable_grad():
            copies = [copy.detach().requires_grad_() for copy in self._copies(len(tokens))]
            hook = self.hook(len(tokens), copies)
            return copies, self.reader.states(tokens[:, :-1], hook, keep)

    def _read(self, tokens: Tensor, *hints: Tensor) -> Tensor:
        """Score a chunk; its states wait for ``_learn``, so that they are computed once."""
        self.pending = None  # of a chunk that was only scored
        self.pending = self._forward(tokens, keep=True)
        states = self.pending[1].detach()
        targets, strength = tokens[:, -states.size(1) :].contiguous(), self.settings.ttt_tilt
        with torch.no_grad():
            nats = self.reader.nats(states, targets)[1]
            for hinted in hints:
                of_hints = self.reader.nats(states, hinted.clamp_min(0))[1]
                nats = tilted(nats, of_hints, targets, hinted, strength)
        return nats

    def _learn(self, tokens: Tensor, known: Tensor) -> Tensor:
        """Take the steps of a chunk on its last S targets, if any of a row's (N, S) is known."""
        size, learns = known.size(1), known.any(1)[:, None, None]
        targets = tokens[:, -size:].contiguous()
        for _ in range(self.settings.ttt_lora_epochs):
            copies, states = self.pending or self._forward(tokens, keep=False)
            self.pending = None
            with torch.enable_grad():
                states = states[:, -size:].contiguous()
                states = torch.where(learns, states, states.detach())
                loss = self.reader.nats(states, targets)[0] * len(tokens)
            gradients = torch.autograd.grad(loss, copies)
            torch._foreach_mul_(gradients[len(self.down) :], self.scale)
            self.optimizer.step(gradients, learns)
        return self.optimizer.steps


class AddAdapters:
    """A hook that adds each visit's adapters to the products.

    Args:
        pairs: by matrix, down (D, rank, in) and scaled up (D, out, rank) of each visit.
    """

    replaces = True

    def __init__(self, pairs: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        self.matrices, self.pairs = tuple(pairs), pairs

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y + up (down x)``, y (D, T, out), x (D, T, in), by each row's two."""
        down, up = self.pairs[site.matrix][site.visit]
        return torch.baddbmm(y, x @ down.mT, up.mT)


@contextmanager
def document_adapters(
    model: GPT, settings: Settings, world: World, graphs: Graphs | None = None
) -> Iterator[Adapters]:
    """Yield adapters of a model whose weights get no gradients until the block ends."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)  # before the dry run, which would compute them, too
    try:
        adapters = Adapters(model, settings, world, graphs)
        with closing(adapters):
            yield adapters
    finally:
        for parameter, wanted in required.items():
            parameter.requires_grad_(wanted)
