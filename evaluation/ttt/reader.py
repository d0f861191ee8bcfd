"""A network that reads documents chunk by chunk and keeps their keys and values.

Two operations of a network read other positions than their own: the embedding reads two earlier
tokens, and attention reads earlier keys and values. ``Reader`` replaces both, so that a chunk costs
its own tokens only, whatever the network has. Keys and values stay as they were computed.

All that a chunk's launches read and write stays where it is, and their shapes depend on few numbers
(`Reader.kept`). So a CUDA graph replays them at any place of a document.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.reference import attention, compose, rope_at
from model.gpt import GPT
from model.hooks import HEAD, ProductHook, hooked

EARLIER = 2  # tokens before its own that a position's embedding depends on: bigram, then SmearGate
FEWEST = 512  # places of keys that a chunk is given at least


class Reader:
    """Reads a document a row, all from their beginnings on, at the same positions.

    Letters in shapes: N rows, S tokens of a chunk, and those of ``GPT``.

    Args:
        model: whose weights are read, without gradients.
        reach: tokens that a position sees, itself included.
        rows: most documents.
        longest: most tokens of a chunk that is kept.

    Attributes:
        position: of the next chunk's first token in the documents; ``place`` on the device.
        cache: (visits, 2, rows, R, G, D), keys and values of the last R positions. Position p is
            at place p mod R. R lets a chunk be written before later ones need what it replaces.
    """

    def __init__(self, model: GPT, reach: int, rows: int, longest: int) -> None:
        self.model, self.reach, self.position = model, min(reach, model.config.window or reach), 0
        config, device = model.config, model.tok_emb.device
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        shape = (len(model.plan), 2, rows, self.reach + longest)
        heads = (config.num_kv_heads, config.head_dim)
        self.cache = torch.zeros(*shape, *heads, dtype=model.dtype, device=device)

    @torch.no_grad()
    def begin(self) -> None:
        """Forget what was read, also what is no number."""
        self.position = 0
        self.place.zero_()
        self.cache.zero_()

    @property
    def earlier(self) -> int:
        """Return how many tokens before a chunk's are given with it."""
        return min(self.position, EARLIER)

    @property
    def kept(self) -> int:
        """Return how many places of the cache the next chunk reads: few numbers, for few graphs."""
        if not self.position:
            return 0
        places = FEWEST
        while places <= self.position:
            places *= 2
        most = self.cache.size(3)
        return places if 2 * places <= most else most

    def states(self, tokens: Tensor, hook: ProductHook, keep: bool = False) -> Tensor:
        """Return the final states (N, S, C) of a chunk, which reads what was kept before it.

        Args:
            tokens: (N, ``earlier`` + S) int32, of the first N rows.
            hook: is passed the matrix products, the head's included.
            keep: whether this chunk's keys and values are kept; later chunks follow ``advance``.
        """
        new = tokens[:, self.earlier :].contiguous()
        query = self.place + torch.arange(new.size(1), device=new.device)
        found: list[Tensor] = []
        model = self._attending(partial(self._attend, found))
        config = model.config
        kinds = dict.fromkeys((visit.documents, visit.window) for visit in model.plan)
        bounds = {kind: self._unseen(query, kind[1]) for kind in kinds}
        rope = rope_at(query, config.rope_dims, config.rope_base)
        run = model.pass_of(new, model.plan, rope, bounds, hook)
        stream = model.embed(tokens.contiguous())[:, self.earlier :].contiguous()
        states = model.visited(stream, run, model.plan, model.layer_weights())
        if keep:
            read = torch.stack(found).unflatten(0, (-1, 2))
            places = query % self.cache.size(3)
            self.cache[:, :, : len(new)].index_copy_(3, places, read)
        return hooked(hook, HEAD, states, states)

    def nats(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss () fp32 of states (N, S, C), and their nats (N, S) fp32."""
        softcap = self.model.config.logit_softcap
        return self.model.ops.loss(states, self.model.output_head(), targets, softcap=softcap)

    def advance(self, size: int) -> None:
        """Go on behind the chunk of ``size`` tokens that was kept last."""
        self.position += size
        self.place += size

    def _unseen(self, query: Tensor, window: int | None) -> Tensor:
        """Return what is added to scores, (S, T): minus infinity where a key is not seen.

        Args:
            query: (S,), positions of a chunk; the T keys are ``kept`` ones, then the chunk's.
            window: tokens that a position sees at most.
        """
        reach = min(self.reach, window or self.reach)
        behind = 1 + torch.arange(self.kept, device=query.device)
        # Each place holds the last position before the chunk that it can hold, if there is one.
        before = self.place - 1 - (self.place - behind) % self.cache.size(3)
        distance = query[:, None] - torch.cat((before, query))
        seen = (distance >= 0) & (distance < reach)
        seen[:, : self.kept] &= before >= 0
        return torch.zeros_like(seen, dtype=self.model.dtype).masked_fill(~seen, -torch.inf)

    def _attend(
        self, found: list[Tensor], q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None
    ) -> Tensor:
        """Return attention's output (N, S, H, D) over what was kept and the chunk."""
        assert unseen is not None  # in the place of documents' bounds
        before = self.cache[len(found) // 2, :, : len(q), : self.kept]
        found += (k.detach(), v.detach())
        if self.kept:
            k, v = (torch.cat(pair, 1) for pair in zip(before, (k, v), strict=True))
        return by_groups(q, k, v, unseen)

    def _attending(self, attend: Callable[..., Tensor]) -> GPT:
        """Return the network with another softmax and its two products."""
        ops, by = self.model.ops, partial(attention, attend=attend)
        composed = compose(ops, by)
        return self.model.computed_by(replace(ops, attention=by, self_attention=composed))


def by_groups(q: Tensor, k: Tensor, v: Tensor, unseen: Tensor) -> Tensor:
    """Return attention (N, S, H, D) of q over k and v (N, T, G, D), ``unseen`` (S, T) added.

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
        attn_mask=unseen.repeat(heads // groups, 1),
    )
    unfolded = found.view(rows, groups, heads // groups, size, width)
    return unfolded.permute(0, 3, 1, 2, 4).reshape(q.shape)
