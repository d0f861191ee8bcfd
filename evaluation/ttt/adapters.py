"""Low-rank adapters of each document's own (LoRA, Hu et al. 2021, arXiv:2106.09685).

``y = W x`` becomes ``y + up (down x)``, where every row of a batch has its own ``down`` (rank, in)
and ``up`` (out, rank). They learn while the document is scored and are forgotten after it, as in
parameter-golf's test-time training by LoRA. The weights stay.

The network knows nothing of them: they are added to what its operations return, on any backend.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kernels import Operations
from kernels.attention.reference import compose
from model.gpt import GPT
from settings import Settings


class Adapters:
    """Adapters of a batch of documents, for ``document_adapters`` to make.

    Attributes:
        down: by matrix, (layers, D, rank, in) fp32; the same for every document at its beginning.
        up: by matrix, (layers, D, out, rank) fp32; zero at the beginning, so they add nothing.

    Args:
        model: what they are added to; it must compute by ``operations``.
        settings: rank, matrices, optimizer, documents at once.
        device: of the model.
    """

    def __init__(self, model: GPT, settings: Settings, device: torch.device) -> None:
        self.model, self.settings = model, settings
        config = model.config
        width, documents = config.model_dim, settings.ttt_lora_documents
        outputs = {"q": width, "k": config.kv_dim, "v": config.kv_dim, "o": width, "head": width}
        self.down: dict[str, nn.Parameter] = {}
        self.up: dict[str, nn.Parameter] = {}
        generator = torch.Generator().manual_seed(settings.seed)
        self.initial: dict[str, Tensor] = {}
        for name in settings.ttt_lora_matrices:
            layers = 1 if name == "head" else config.num_layers
            shape = (layers, 1, settings.ttt_lora_rank, width)
            drawn = torch.rand(shape, generator=generator) * 2 - 1
            self.initial[name] = (drawn / math.sqrt(width)).to(device)
            down = self.initial[name].repeat(1, documents, 1, 1)
            self.down[name] = nn.Parameter(down)
            up = torch.zeros(layers, documents, outputs[name], settings.ttt_lora_rank)
            self.up[name] = nn.Parameter(up.to(device))
        self.optimizer = self._optimizer()
        self.own = model.ops
        self._of_layers: Iterator[dict[str, tuple[Tensor, Tensor]]] = iter(())
        self._of_layer: dict[str, tuple[Tensor, Tensor]] = {}

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, parameters = self.settings, [*self.down.values(), *self.up.values()]
        if settings.ttt_lora_optimizer == "adam":
            betas = (settings.beta1, settings.beta2)
            return torch.optim.Adam(parameters, settings.ttt_lora_lr, betas, foreach=True)
        return torch.optim.SGD(
            parameters, settings.ttt_lora_lr, momentum=settings.ttt_momentum, foreach=True
        )

    def tensors(self) -> list[Tensor]:
        """All that learning changes, but for the optimizer's state."""
        return [parameter.detach() for parameter in (*self.down.values(), *self.up.values())]

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all documents, bit for bit, in the same memory."""
        for name, down in self.down.items():
            down.copy_(self.initial[name].expand_as(down))
            self.up[name].zero_()
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Train each row's adapters separately, as `evaluation.ttt.learner.Learner` says.

        Updates of rows whose document has ended are ignored.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.ttt_lora_lr * lr_scale
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, -positions.size(1) :].contiguous()
        for _ in range(self.settings.ttt_lora_epochs):
            self.optimizer.zero_grad()
            (self._mean_nats(inputs, targets) * len(tokens)).backward()
            self.optimizer.step()

    def _mean_nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over all rows of the last targets' nats, () fp32 with gradient."""
        model = self.model
        head = model.tok_emb if model.config.tie_embeddings else model.head
        hidden = model.hidden(inputs)[:, -targets.size(1) :]
        softcap = model.config.logit_softcap
        return model.ops.loss(hidden, head.to(model.dtype), targets, softcap=softcap)[0]

    def operations(self) -> Operations:
        """The model's operations, with the adapters in them.

        The network embeds once a pass and projects once a layer, in order, which tells the layer.
        """
        return replace(
            self.own,
            embed=self._embed,
            projections=self._projections,
            self_attention=compose(self._projections, self.own.attention),
            linear_add=self._linear_add,
            loss=self._loss,
        )

    def _embed(self, *arguments: Any, **options: Any) -> Tensor:
        names = [name for name in self.down if name != "head"]
        pairs = [
            zip(self.down[name].unbind(), self.up[name].unbind(), strict=True) for name in names
        ]
        of_layers = zip(*pairs, strict=True)
        self._of_layers = (dict(zip(names, layer, strict=True)) for layer in of_layers)
        return self.own.embed(*arguments, **options)

    def _projections(self, x: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        self._of_layer = next(self._of_layers, {})
        parts = self.own.projections(x, *arguments, **options)
        return tuple(
            self._added(part, x, self._of_layer.get(name))
            for name, part in zip("qkv", parts, strict=True)
        )

    def _linear_add(self, stream: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._added(self.own.linear_add(stream, x, weight), x, self._of_layer.get("o"))

    def _loss(self, hidden: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if "head" in self.down:
            pair = self.down["head"][0], self.up["head"][0]
            hidden = self._added(hidden, hidden, pair)
        return self.own.loss(hidden, *arguments, **options)

    @staticmethod
    def _added(y: Tensor, x: Tensor, pair: tuple[Tensor, Tensor] | None) -> Tensor:
        """``y + up (down x)``, y (D, T, out), x (D, T, in), each row with its own two matrices."""
        if pair is None:
            return y
        down, up = (matrix.to(x.dtype) for matrix in pair)
        return torch.baddbmm(y, x @ down.mT, up.mT)


@contextmanager
def document_adapters(model: GPT, settings: Settings, device: torch.device) -> Iterator[Adapters]:
    """Adapters in a model, whose own weights learn nothing, until the block ends."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    own = model.ops
    adapters = Adapters(model, settings, device)
    try:
        model.requires_grad_(False)
        model.ops = adapters.operations()
        yield adapters
    finally:
        model.ops = own
        for parameter, wanted in required.items():
            parameter.requires_grad_(wanted)
