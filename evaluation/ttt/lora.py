"""Low-rank adapters of each document's own (LoRA, Hu et al. 2021, arXiv:2106.09685).

``y = W x`` becomes ``y + up (down x)``, where every row of a batch has its own ``down`` (rank, in)
and ``up`` (out, rank). They learn while the document is scored and are forgotten after it, as in
parameter-golf's test-time training by LoRA. The weights stay.

``AddAdapters`` is a hook that adds them to the network's products, on any backend.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.gpt import GPT
from model.hooks import Site
from settings import Settings


class Adapters:
    """Adapters of a batch of documents, for ``document_adapters`` to make.

    Attributes:
        down: by matrix, (visits, D, rank, in) fp32; the same for every document at its beginning.
        up: by matrix, (visits, D, out, rank) fp32; zero at the beginning, so they add nothing.

    Args:
        model: whose products the adapters are added to.
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
            visits = 1 if name == "head" else len(model.plan)
            shape = (visits, 1, settings.ttt_lora_rank, width)
            drawn = torch.rand(shape, generator=generator) * 2 - 1
            self.initial[name] = (drawn / math.sqrt(width)).to(device)
            down = self.initial[name].repeat(1, documents, 1, 1)
            self.down[name] = nn.Parameter(down)
            up = torch.zeros(visits, documents, outputs[name], settings.ttt_lora_rank)
            self.up[name] = nn.Parameter(up.to(device))
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, parameters = self.settings, [*self.down.values(), *self.up.values()]
        if settings.ttt_lora_optimizer == "adam":
            betas = (settings.beta1, settings.beta2)
            return torch.optim.Adam(parameters, settings.ttt_lora_lr, betas, foreach=True)
        return torch.optim.SGD(
            parameters, settings.ttt_lora_lr, momentum=settings.ttt_momentum, foreach=True
        )

    def tensors(self) -> list[Tensor]:
        """Return all that an update changes, but for the optimizer's state."""
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
        """Return the mean over all rows of the last targets' nats, () fp32 with gradient."""
        return self.model.loss_of_last(inputs, targets, self.hook())[0]

    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of ``GPT.score`` with the adapters, each row with its document's."""
        return self.model.score(tokens, targets, self.hook())

    def hook(self) -> "AddAdapters":
        """Return the hook of one forward pass, which adds the adapters as they are now."""
        return AddAdapters(
            {
                name: list(zip(down.unbind(), self.up[name].unbind(), strict=True))
                for name, down in self.down.items()
            }
        )


class AddAdapters:
    """A hook that adds each visit's adapters to the products.

    Args:
        pairs: by matrix, down (D, rank, in) and up (D, out, rank) of each visit.
    """

    replaces = True

    def __init__(self, pairs: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        self.matrices, self.pairs = tuple(pairs), pairs

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y + up (down x)``, y (D, T, out), x (D, T, in), by each row's two matrices."""
        down, up = (matrix.to(x.dtype) for matrix in self.pairs[site.matrix][site.visit])
        return torch.baddbmm(y, x @ down.mT, up.mT)


@contextmanager
def document_adapters(model: GPT, settings: Settings, device: torch.device) -> Iterator[Adapters]:
    """Yield adapters of a model whose weights get no gradients until the block ends."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    adapters = Adapters(model, settings, device)
    try:
        model.requires_grad_(False)
        yield adapters
    finally:
        for parameter, wanted in required.items():
            parameter.requires_grad_(wanted)
