"""Logits of one next token after the other: a network with a cache of keys and values.

Two operations of a network read other positions than their own. The embedding reads two earlier
tokens, and attention reads the keys and values of all earlier ones. ``Decoder`` replaces both, so
everything else is computed by ``GPT`` and its blocks, whatever the network has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from kernels import operations
from kernels.attention.reference import Attend, attention, causal, compose, scaled_dot_product
from kernels.loss.reference import softcapped
from kernels.operand import dense
from model.gpt import GPT

EARLIER = 2  # tokens before its own that a position's embedding depends on: bigram, then SmearGate


class Decoder:
    """A network that reads texts and continues them token by token, several at once.

    Letters in shapes: S texts, and those of ``GPT``. A text's positions lie in a row of the cache,
    from 0. Every visit of a layer has a cache of its own.

    Args:
        model: whose weights are read here, once. Operations are the reference's.
        texts: S.
        length: the most tokens of a text, at most the model's ``max_seq_len``.

    Attributes:
        lengths: tokens of each text so far.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT, texts: int, length: int) -> None:
        config, device = model.config, model.tok_emb.device
        self.model, self.plan = model.computed_by(operations("reference")), model.plan
        self.weights = self.model.layer_weights()
        self.weights[0].mlp()
        self.head = dense(self.model.output_head(), model.dtype)
        shape = (2, texts, length, config.num_kv_heads, config.head_dim)
        self.cache = [torch.zeros(shape, dtype=model.dtype, device=device) for _ in self.plan]
        self.length, self.lengths = length, [0] * texts
        self.rows = torch.arange(texts, device=device)
        self.position = torch.zeros(texts, dtype=torch.int64, device=device)  # of the next token
        self.document = torch.zeros_like(self.position)  # where its document begins
        self.earlier = torch.zeros((texts, EARLIER), dtype=torch.int32, device=device)

    @torch.inference_mode()
    def read(self, texts: Mapping[int, Sequence[int]]) -> Tensor:
        """Begin texts anew, by number; return the next tokens' logits (len(texts), V) fp32.

        Raises:
            ValueError: a text has no token, or more than ``length``.
        """
        rows, counts = list(texts), [len(text) for text in texts.values()]
        if not all(0 < count <= self.length for count in counts):
            raise ValueError(f"texts of {counts} tokens: give 1 to {self.length}")
        padded = [[*text, *[0] * (max(counts) - len(text))] for text in texts.values()]
        tokens = torch.tensor(padded, dtype=torch.int32, device=self.rows.device)
        caches = iter(self.cache)

        def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
            # What lies behind a text's last token is overwritten before it is read.
            next(caches)[:, rows, : k.size(1)] = torch.stack((k, v))
            return causal(q, k, v, documents)

        hidden = self._attending(attend).hidden(tokens)
        last = torch.tensor(counts, device=tokens.device) - 1
        self._begin(rows, counts, tokens, last)
        return self._logits(hidden[torch.arange(len(rows), device=tokens.device), last])

    def _begin(self, rows: list[int], counts: list[int], tokens: Tensor, last: Tensor) -> None:
        """Keep where texts (len(rows), T) end; ``last`` (len(rows),) is their last position."""
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] = count
        self.position[rows] = last + 1
        place = torch.arange(tokens.size(1), device=tokens.device)
        begins = (tokens == self.model.config.bos_id) & (place <= last[:, None])
        self.document[rows] = torch.where(begins, place, 0).amax(1)
        recent = last[:, None] + torch.arange(1 - EARLIER, 1, device=last.device)
        self.earlier[rows] = tokens.gather(1, recent.clamp_min(0))

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (S,) to every text; return the next tokens' logits (S, V) fp32.

        Raises:
            ValueError: a text has not been read, or is full.
        """
        if not all(0 < length < self.length for length in self.lengths):
            raise ValueError(f"texts of {self.lengths} tokens: read all, and at most {self.length}")
        tokens = tokens.to(torch.int32)
        begins = tokens == self.model.config.bos_id
        self.document = torch.where(begins, self.position, self.document)
        kinds = dict.fromkeys((visit.documents, visit.window) for visit in self.plan)
        visible = {kind: self._visible(*kind) for kind in kinds}
        visits = zip(self.cache, self.plan, strict=True)

        def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
            cache, visit = next(visits)
            return self._attend(q, k, v, cache, visible[visit.documents, visit.window])

        # To the network, the S texts are the S positions of one window: (1, S, C).
        model, rope = self._attending(attend), self.model.rope[:, self.position]
        run = model.pass_of(tokens[None], self.plan, rope, dict.fromkeys(kinds))
        hidden = model.visited(self._embed(tokens)[None], run, self.plan, self.weights)
        self.position = self.position + 1
        self.lengths = [length + 1 for length in self.lengths]
        return self._logits(hidden[0])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, visible: Tensor) -> Tensor:
        """Add k and v (1, S, G, D) to a visit's cache; return attention's output (1, S, H, D)."""
        cache[:, self.rows, self.position] = torch.cat((k, v))
        keys, values = cache[:, :, : visible.size(-1)]
        return scaled_dot_product(q.transpose(0, 1), keys, values, visible).transpose(0, 1)

    def _attending(self, attend: Attend) -> GPT:
        """Return the network with another softmax and its two products."""
        ops, by = self.model.ops, partial(attention, attend=attend)
        composed = compose(ops, by)
        return self.model.computed_by(replace(ops, attention=by, self_attention=composed))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Return the embedding (S, C) of a token (S,) after the earlier ones."""
        recent = torch.cat((self.earlier, tokens[:, None]), dim=1)
        embedded = self.model.embed(recent)[:, -1]
        if 1 in self.lengths:  # the token before it is the text's first, and has none before it
            second = self.model.embed(recent[:, 1:])[:, -1]
            embedded = torch.where((self.position == 1)[:, None], second, embedded)
        self.earlier = recent[:, 1:]
        return embedded

    def _visible(self, documents: bool, window: int | None) -> Tensor:
        """Return which of the cached positions each text's next token sees, (S, 1, 1, T)."""
        place = torch.arange(max(self.lengths) + 1, device=self.rows.device)
        first = self.document if documents else torch.zeros_like(self.document)
        if window is not None:
            first = first.maximum(self.position - (window - 1))
        seen = (place >= first[:, None]) & (place <= self.position[:, None])
        return seen[:, None, None]

    def _logits(self, hidden: Tensor) -> Tensor:
        return softcapped(hidden, self.head, self.model.config.logit_softcap)
