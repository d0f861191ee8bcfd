"""Texts that a network writes: one token after the other, drawn from its distribution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.text_stream import TextStream
from data.vocabulary import AnyTokenizer
from errors import InputError
from model.decoding import Decoder
from model.gpt import GPT

AT_ONCE = 16  # texts, whose caches are in memory together


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: logits are divided by it; 0: the most likely token.
        top_k: draw from so many, the most likely ones; 0: from all.
        max_tokens: of a text, besides its prompt.
        length: tokens of context, at least 2. Once it is full, its second half begins a new one.

    Raises:
        InputError: a value is impossible.
    """

    temperature: float = 0.8
    top_k: int = 50
    max_tokens: int = 200
    length: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature {self.temperature}: give 0 (the most likely) or more")
        if self.top_k < 0:
            raise InputError(f"top-k {self.top_k}: give 0 (all tokens) or more")
        if self.max_tokens < 1:
            raise InputError(f"max-tokens {self.max_tokens}: give 1 or more")
        if self.length < 2:
            raise InputError(f"a context of {self.length} tokens: give 2 or more")


@dataclass(frozen=True)
class Prompt:
    """What a text begins with: tokens, BOS included, and the seed of its random numbers."""

    tokens: Sequence[int]
    seed: int


class Piece(NamedTuple):
    """What is added to a text.

    Attributes:
        number: of the text, as of its prompt.
        characters: that are new; none, while one is unfinished.
        tokens: drawn since the piece before, for all texts.
    """

    number: int
    characters: str
    tokens: int


def draw(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Return a token (S,) int64 for each row of logits (S, V) fp32.

    The k most likely tokens share the interval [0, 1) in proportion to their probabilities. The
    token is the one whose part a uniform number lies in.

    Args:
        logits: of the next token.
        sampling: temperature and k.
        uniforms: (S,) fp64 in [0, 1).
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    count = min(sampling.top_k or logits.size(-1), logits.size(-1))
    likely, tokens = logits.double().topk(count)
    parts = ((likely - likely[:, :1]) / sampling.temperature).exp()
    ends = parts.cumsum(-1)
    place = torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True)
    return tokens.gather(-1, place.clamp_max(count - 1))[:, 0]


def generate(model: GPT, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[int]]:
    """Yield the next token of every text, ``max_tokens`` times.

    Args:
        model: whose ``max_seq_len`` is ``sampling.length`` or more.
        prompts: of the texts. The same prompt and seed give the same text.
        sampling: how tokens are drawn.
    """
    texts = [list(prompt.tokens) for prompt in prompts]
    longest = max(map(len, texts)) + sampling.max_tokens
    decoder = Decoder(model, len(texts), min(sampling.length, longest))
    draws = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    logits = decoder.read({n: context(text, decoder.length) for n, text in enumerate(texts)})
    for left in range(sampling.max_tokens, 0, -1):
        uniforms = [torch.rand((), generator=each, dtype=torch.float64) for each in draws]
        chosen = draw(logits, sampling, torch.stack(uniforms).to(logits.device))
        yield chosen.tolist()
        if left == 1:
            return
        full = [n for n, length in enumerate(decoder.lengths) if length == decoder.length]
        if full:
            decoder.read({n: texts[n][-(decoder.length // 2) :] for n in full})
        for text, token in zip(texts, chosen.tolist(), strict=True):
            text.append(token)
        logits = decoder.step(chosen)


def context(text: list[int], length: int) -> list[int]:
    """Return a text, or if it is longer than ``length`` its last half as many tokens."""
    return text if len(text) <= length else text[-(length // 2) :]


def written(
    model: GPT, tokenizer: AnyTokenizer, prompts: Sequence[Prompt], sampling: Sampling
) -> Iterator[Piece]:
    """Yield texts as they are written.

    Texts come one after the other, though up to ``AT_ONCE`` are written at once. A text begins with
    its prompt, and ends before the BOS of a further document.
    """
    for begin in range(0, len(prompts), AT_ONCE):
        for piece in _written(model, tokenizer, prompts[begin : begin + AT_ONCE], sampling):
            yield piece._replace(number=begin + piece.number)


def _written(
    model: GPT, tokenizer: AnyTokenizer, prompts: Sequence[Prompt], sampling: Sampling
) -> Iterator[Piece]:
    streams = [TextStream(tokenizer) for _ in prompts]
    waiting = [stream.add(p.tokens) for stream, p in zip(streams, prompts, strict=True)]
    running, first = set(range(len(prompts))), 0
    yield Piece(first, waiting[first], 0)
    waiting[first] = ""
    for chosen in generate(model, prompts, sampling):
        drawn = len(running)
        running -= {n for n in running if chosen[n] == tokenizer.bos_id}
        for number in running:
            waiting[number] += streams[number].add([chosen[number]])
        yield Piece(first, waiting[first], drawn)
        waiting[first] = ""
        while first not in running:
            yield Piece(first, waiting[first] + streams[first].rest(), 0)
            first += 1
            if first == len(prompts):
                return
    for number in range(first, len(prompts)):
        yield Piece(number, waiting[number] + streams[number].rest(), 0)
