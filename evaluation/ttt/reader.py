"""A network that reads documents chunk by chunk and keeps their keys and values.

Two operations of a network read other positions than their own: the embedding reads two earlier
tokens, and attention reads earlier keys and values. ``Reader`` replaces both, so that a chunk costs
its own tokens only, whatever the network has. Keys and values stay as they were computed.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.reference import attention, compose, rope_table
from model.gpt import GPT
from model.hooks import HEAD, ProductHook, hooked

EARLIER = 2  # tokens before its own that a position's embedding depends on: bigram, then SmearGate
Kept = list[tuple[Tensor, Tensor]]


class Reader:
    """Reads a document a row, all from their beginnings on, at the same positions.

    Letters in shapes: N rows, S tokens of a chunk, and those of ``GPT``.

    Args:
        model: whose weights are read at each ``begin``, without gradients.
        reach: tokens that a position sees, itself included.

    Attributes:
        position: of the next chunk's first token in the documents.
    """

    def __init__(self, model: GPT, reach: int) -> None:
        self.model, self.reach = model, min(reach, model.config.window or reach)

    @torch.no_grad()
    def begin(self, longest: int) -> None:
        """Forget what was read, and take the weights as they are now.

        Args:
            longest: most tokens of a document.
        """
        model, config = self.model, self.model.config
        self.weights, self.head = model.layer_weights(), model.output_head()
        self.rope = rope_table(longest, config.rope_dims, config.rope_base, model.tok_emb.device)
        self.position, self.kept, self.read = 0, [], []

    @property
    def earlier(self) -> int:
        """Return how many tokens before a chunk's are given with it."""
        return min(self.position, EARLIER)

    def states(self, tokens: Tensor, hook: ProductHook, keep: bool = False) -> Tensor:
        """Return the final states (N, S, C) of a chunk, which reads what was kept before it.

        Args:
            tokens: (N, ``earlier`` + S) int32, of the first N rows.
            hook: is passed the matrix products, the head's included.
            keep: whether ``advance`` keeps this chunk's keys and values.
        """
        first, new = self.position, tokens[:, self.earlier :].contiguous()
        last, read = first + new.size(1), []
        model = self._attending(partial(self._attend, read, self._visible(new.size(1))))
        bounds = {(visit.documents, visit.window): None for visit in model.plan}
        run = model.pass_of(new, model.plan, self.rope[:, first:last], bounds, hook)
        stream = model.embed(tokens.contiguous())[:, self.earlier :].contiguous()
        found = model.visited(stream, run, model.plan, self.weights)
        if keep:
            self.read = read
        return hooked(hook, HEAD, found, found)

    def nats(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss () fp32 of states (N, S, C), and their nats (N, S) fp32."""
        softcap = self.model.config.logit_softcap
        return self.model.ops.loss(states, self.head, targets, softcap=softcap)

    def advance(self, size: int) -> None:
        """Keep the keys and values of the chunk of ``size`` tokens that was read last."""
        kept, self.read = self.read, []
        self.kept = [(k[:, -self.reach :], v[:, -self.reach :]) for k, v in kept]
        self.position += size

    def _visible(self, size: int) -> Tensor:
        """Return which keys, kept and new, each position of a chunk sees, (S, T)."""
        kept = self.kept[0][0].size(1) if self.kept else 0
        device = self.rope.device
        query = torch.arange(size, device=device)[:, None]
        behind = query - torch.arange(-kept, size, device=device)
        return (behind >= 0) & (behind < self.reach)

    def _attend(
        self, read: Kept, seen: Tensor, q: Tensor, k: Tensor, v: Tensor, _: Tensor | None
    ) -> Tensor:
        """Return attention's output (N, S, H, D) over what was kept and the chunk."""
        if self.kept:
            before = self.kept[len(read)]
            k, v = (torch.cat((a[: len(b)], b), 1) for a, b in zip(before, (k, v), strict=True))
        read.append((k.detach(), v.detach()))
        return by_groups(q, k, v, seen)

    def _attending(self, attend: Callable[..., Tensor]) -> GPT:
        """Return the network with another softmax and its two products."""
        ops, by = self.model.ops, partial(attention, attend=attend)
        composed = compose(ops.projections, by)
        return self.model.computed_by(replace(ops, attention=by, self_attention=composed))


def by_groups(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Return attention (N, S, H, D) of q over k and v (N, T, G, D), ``seen`` (S, T) of them.

    The queries that share a key are rows of one head, because PyTorch's fast kernels take either a
    mask or groups.
    """
    rows, size, heads, width = q.shape
    groups = k.size(2)
    folded = q.view(rows, size, groups, heads // groups, width).permute(0, 2, 3, 1, 4)
    found = F.scaled_dot_product_attention(
        folded.reshape(rows, groups, -1, width),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=seen.repeat(heads // groups, 1),
    )
    unfolded = found.view(rows, groups, heads // groups, size, width)
    return unfolded.permute(0, 3, 1, 2, 4).reshape(q.shape)
