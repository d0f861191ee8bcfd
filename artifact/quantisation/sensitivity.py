"""How much the loss minds an error in each output of the matrices: the diagonal of its curvature.

The Fisher matrix of a product ``y = W x`` is close to ``E[g g^T]`` times ``E[x x^T]`` for the
gradients g of the loss by y (Martens and Grosse, "Optimizing neural networks with
Kronecker-factored approximate curvature", 2015, arXiv:1503.05671). Hessians are the second factor,
and sensitivities the diagonal of the first. Only both together compare the errors of two matrices.
"""

import torch
from torch import Tensor

from kernels import operations
from model.gpt import GPT
from model.hooks import HEAD, Site
from model.parameters import ParameterSpec

LENGTH, ROWS = 1024, 8  # of the windows of a batch: plain attention keeps LENGTH^2 scores a head
CHUNK = 2048  # tokens whose logits are in memory together


class Sensitivities:
    """A hook that adds up the squared gradients of the loss by the products' outputs, in fp32.

    It computes by plain PyTorch, with ``LENGTH`` tokens of context. The head's are exact means
    over the predicted distribution, because gradients of rare tokens are rare.

    Args:
        model: holding the weights that will be quantised.
    """

    matrices = ("q", "k", "v", "o", "up", "down")
    replaces = True

    def __init__(self, model: GPT) -> None:
        self.model = model.computed_by(operations("reference"))
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.tokens: dict[tuple[str, int], int] = {}
        self.of_inputs = torch.zeros(len(model.tok_emb), device=model.tok_emb.device)
        self.inputs = 0

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        def add(gradient: Tensor) -> None:
            self._add(site.matrix, site.layer, gradient.flatten(0, -2).float().square())

        y = y.clone()  # the network may go on to change y in place
        y.register_hook(add)
        return y

    def add(self, tokens: Tensor) -> None:
        """Add the first windows of a batch (B, T) int, on the model's device."""
        length = min(LENGTH, tokens.size(1))
        windows = tokens.flatten()
        windows = windows[: len(windows) // length * length].view(-1, length)[:ROWS]
        with torch.enable_grad():
            hidden = self.model.hidden(windows, hook=self)
        gradient = torch.zeros_like(hidden)
        # Nobody knows what follows a window's last token.
        inputs, targets = hidden.detach()[:, :-1].flatten(0, 1), windows[:, 1:].flatten().long()
        parts = zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True)
        found = torch.cat([self._head(*part) for part in parts])
        gradient[:, :-1] = found.view(gradient[:, :-1].shape)
        # Autograd would import SymPy, half a second, if it were passed the gradient itself.
        with torch.enable_grad():
            product = (hidden * gradient).sum()
        # The gradient of what comes first passes through all products.
        into = torch.autograd.grad(product, self.model.tok_emb)[0]
        self.of_inputs += into.float().square().mean(-1)
        self.inputs += windows.numel()

    def of(self, spec: ParameterSpec) -> Tensor | None:
        """Return (n, rows) fp32 for a parameter of n matrices; None if it has no products."""
        slices = [(spec.product, HEAD.layer)] if spec.product else spec.slices
        keys = [(matrix, layer) for matrix, layer in slices]
        if not keys or not all(key in self.sums for key in keys):
            return None
        # A layer's Hessian is the sum over its visits, so this is their mean.
        return torch.stack([self.sums[key] / self.tokens[key] for key in keys])

    def with_inputs(self, hessian: Tensor, rows: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return a tied embedding's Hessian and sensitivities with what its rows do as inputs.

        An error of row t adds ``f_t`` times its square, whatever its direction. So the curvature
        ``s_t H + f_t I`` of the row is taken as ``s'_t (H + a I)`` of the same trace.

        Args:
            hessian: (1, C, C) of the head, a sum over ``tokens``.
            rows: (1, V) of the head.
        """
        # A token that was not seen counts as half a mean one.
        curvature = (self.of_inputs + self.of_inputs.sum() / self.inputs / 2) / self.inputs * tokens
        width, trace = hessian.size(-1), hessian.diagonal(dim1=-2, dim2=-1).sum()
        more = curvature.mean() / rows.mean()
        rows = (rows * trace + curvature * width) / (trace + more * width)
        return hessian + more * torch.eye(width, device=hessian.device), rows

    def _head(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradients of the nats by the head's inputs (N, C)."""
        cap, weight = self.model.config.logit_softcap, self.model.output_head().values
        bent = (inputs @ weight.T).float().div_(cap).tanh_()
        share, slope = (cap * bent).softmax(-1), 1 - bent.square()
        self._add("head", HEAD.layer, share * (1 - share) * slope.square())
        share[torch.arange(len(targets), device=targets.device), targets] -= 1
        return (share * slope).to(weight.dtype) @ weight

    def _add(self, matrix: str, layer: int, squares: Tensor) -> None:
        key, total = (matrix, layer), squares.sum(0)
        self.sums[key] = self.sums[key] + total if key in self.sums else total
        self.tokens[key] = self.tokens.get(key, 0) + len(squares)
