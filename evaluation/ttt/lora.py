"""Low-rank adapters of each document's own (LoRA, Hu et al. 2021, arXiv:2106.09685).

``y = W x`` becomes ``y + alpha / rank * up (down x)``, where every row of a batch has its own
``down`` (rank, in) and ``up`` (out, rank). They learn while the document is scored and are
forgotten after it, as in parameter-golf's test-time training by LoRA. The weights stay.

``AddAdapters`` is a hook that adds them to the network's products, on any backend.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evaluation.ttt.reader import Reader
from model.gpt import GPT
from model.hooks import Site
from runtime.ranks import World
from settings import Settings

BETAS, EPS = (0.0, 0.99), 1e-10


class Adapters:
    """Adapters of a batch of documents, for ``document_adapters`` to make.

    Attributes:
        down: by matrix, (visits, D, rank, in) fp32; the same for every document at its beginning.
        up: by matrix, (visits, D, out, rank) fp32; zero at the beginning, so they add nothing.
        reader: of the documents.

    Args:
        model: whose products the adapters are added to.
        settings: rank, matrices, optimizer, documents at once.
        world: the ranks, which learn the first ``down`` together.
    """

    def __init__(self, model: GPT, settings: Settings, world: World) -> None:
        self.settings, self.world = settings, world
        self.reader = Reader(model, settings.eval_seq_len)
        config, rank, device = model.config, settings.ttt_lora_rank, world.device
        width, documents = config.model_dim, settings.ttt_lora_documents
        self.down: dict[str, nn.Parameter] = {}
        self.up: dict[str, nn.Parameter] = {}
        generator = torch.Generator().manual_seed(settings.seed)
        self.initial: dict[str, Tensor] = {}
        for name in settings.ttt_lora_matrices:
            visits = 1 if name == "head" else len(model.plan)
            drawn = torch.rand((visits, 1, rank, width), generator=generator) * 2 - 1
            self.initial[name] = (drawn / math.sqrt(width)).to(device)
            down = self.initial[name].repeat(1, documents, 1, 1)
            self.down[name] = nn.Parameter(down)
            outputs = config.kv_dim if name in ("k", "v") else width
            up = torch.zeros(visits, documents, outputs, rank, device=device)
            self.up[name] = nn.Parameter(up)
        self.optimizer = self._optimizer()
        self.kept = [torch.zeros_like(down) for down in self.initial.values()]
        self.count = torch.zeros((), device=device)
        self.reset(documents, settings.eval_seq_len)

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, parameters = self.settings, [*self.down.values(), *self.up.values()]
        decay = settings.ttt_lora_weight_decay
        if settings.ttt_lora_optimizer == "adam":
            fused = self.world.device.type == "cuda"
            return torch.optim.AdamW(
                parameters, settings.ttt_lora_lr, BETAS, EPS, decay, fused=fused
            )
        momentum = settings.ttt_momentum
        return torch.optim.SGD(
            parameters, settings.ttt_lora_lr, momentum, weight_decay=decay, foreach=True
        )

    def tensors(self) -> list[Tensor]:
        """Return all that an update changes, but for the optimizer's state."""
        return [parameter.detach() for parameter in (*self.down.values(), *self.up.values())]

    @torch.no_grad()
    def reset(self, documents: int, longest: int) -> None:
        """Forget all documents, bit for bit, in the same memory.

        Args:
            documents: that follow, in the first rows.
            longest: targets of the longest of them.
        """
        self.documents = documents
        for name, down in self.down.items():
            down.copy_(self.initial[name].expand_as(down))
            self.up[name].zero_()
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        # A chunk may reach beyond the end of its document.
        longest = 2 * longest + self.settings.ttt_lora_chunk
        self.reader.begin(max(longest, self.settings.eval_seq_len))

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

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Train each row's adapters separately, as `evaluation.ttt.learner.Learner` says.

        Rows without a position learn nothing. ``tokens`` are those of ``Reader.states``, and a
        target more.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.ttt_lora_lr * lr_scale
        inputs, targets = tokens[:, :-1], tokens[:, -positions.size(1) :].contiguous()
        learns = (positions >= 0).any(1)[:, None, None]
        for _ in range(self.settings.ttt_lora_epochs):
            self.optimizer.zero_grad()
            states = self.reader.states(inputs, self.hook(len(tokens)))
            states = states[:, -targets.size(1) :].contiguous()
            states = torch.where(learns, states, states.detach())
            (self.reader.nats(states, targets)[0] * len(tokens)).backward()
            self.optimizer.step()

    @torch.no_grad()
    def score(self, tokens: Tensor, targets: Tensor, keep: bool = False) -> Tensor:
        """Return nats (N, S) of the last S targets of a chunk; arguments as ``Reader.states``."""
        states = self.reader.states(tokens, self.hook(len(tokens)), keep)
        return self.reader.nats(states[:, -targets.size(1) :].contiguous(), targets)[1]

    def hook(self, rows: int) -> "AddAdapters":
        """Return the hook of one forward pass, which adds the first ``rows``' adapters."""
        dtype, settings = self.reader.model.dtype, self.settings
        pairs = {
            name: list(
                zip(
                    down[:, :rows].to(dtype).unbind(),
                    self.up[name][:, :rows].to(dtype).unbind(),
                    strict=True,
                )
            )
            for name, down in self.down.items()
        }
        return AddAdapters(pairs, settings.ttt_lora_alpha / settings.ttt_lora_rank)


class AddAdapters:
    """A hook that adds each visit's adapters to the products.

    Args:
        pairs: by matrix, down (D, rank, in) and up (D, out, rank) of each visit.
        scale: what is added is multiplied by it.
    """

    replaces = True

    def __init__(self, pairs: dict[str, list[tuple[Tensor, Tensor]]], scale: float) -> None:
        self.matrices, self.pairs, self.scale = tuple(pairs), pairs, scale

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y + scale up (down x)``, y (D, T, out), x (D, T, in), by each row's two."""
        down, up = self.pairs[site.matrix][site.visit]
        return torch.baddbmm(y, x @ down.mT, up.mT, alpha=self.scale)


@contextmanager
def document_adapters(model: GPT, settings: Settings, world: World) -> Iterator[Adapters]:
    """Yield adapters of a model whose weights get no gradients until the block ends."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    adapters = Adapters(model, settings, world)
    try:
        model.requires_grad_(False)
        yield adapters
    finally:
        for parameter, wanted in required.items():
            parameter.requires_grad_(wanted)
