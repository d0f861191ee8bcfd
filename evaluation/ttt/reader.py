"""A network that reads documents chunk by chunk and keeps their keys and values.

Two operations of a network read other positions than their own: the embedding reads two earlier
tokens, and attention reads earlier keys and values. ``Reader`` replaces both, so that a chunk costs
its own tokens only, whatever the network has. Keys and values stay as they were computed.

All that a chunk's launches read and write stays where it is, and their shapes depend on few numbers
(`Reader.kept`). So a CUDA graph replays them at any place of a document.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.attention import Kept
from kernels.attention.reference import chunk_bounds, compose, rope_at
from model.gpt import GPT
from model.hooks import HEAD, ProductHook, hooked

EARLIER = 2  # tokens before its own that a position's embedding depends on: bigram, then SmearGate


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
        self.model, self.position = model, 0
        self.reach = min(reach, model.config.window or reach)
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
        """Return how many places of the cache the next chunk may read: none, or all."""
        return self.cache.size(3) if self.position else 0

    def states(self, tokens: Tensor, hook: ProductHook, keep: bool = False) -> Tensor:
        """Return the final states (N, S, C) of a chunk, which reads what was kept before it.

        Args:
            tokens: (N, ``earlier`` + S) int32, of the first N rows.
            hook: is passed the matrix products, the head's included.
            keep: whether this chunk's keys and values are kept; later chunks follow ``advance``.
        """
        new = tokens[:, self.earlier :].contiguous()
        query = self.place + torch.arange(new.size(1), device=new.device)
        found: list[tuple[Tensor, Tensor]] = []
        model = self._attending(found)
        config = model.config
        kinds = dict.fromkeys((visit.documents, visit.window) for visit in model.plan)
        bounds = {
            kind: chunk_bounds(self.place, new, min(self.reach, kind[1] or self.reach))
            for kind in kinds
        }
        rope = rope_at(query, config.rope_dims, config.rope_base)
        run = model.pass_of(new, model.plan, rope, bounds, hook)
        stream = model.embed(tokens.contiguous())[:, self.earlier :].contiguous()
        states = model.visited(stream, run, model.plan, model.layer_weights())
        if keep:
            read = torch.stack([each for pair in found for each in pair]).unflatten(0, (-1, 2))
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

    def _attending(self, found: list[tuple[Tensor, Tensor]]) -> GPT:
        """Return the network with attention over what is kept; it adds keys and values to found."""
        ops = self.model.ops

        def attention(
            q: Tensor, k: Tensor, v: Tensor, gain: Tensor, rope: Tensor, **options: Any
        ) -> Tensor:
            kept = Kept(self.cache[len(found), :, : len(q), : self.kept], self.place)
            y, key = ops.cached_attention(q, k, v, gain, rope, kept, **options)
            found.append((key, v.detach()))
            return y

        composed = compose(ops, attention)
        return self.model.computed_by(replace(ops, attention=attention, self_attention=composed))
