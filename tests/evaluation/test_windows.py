"""Bits per byte against a loop over single tokens, windows and ranks included."""

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.shards import TokenStream, write_shard
from data.tokenizer import ByteTable, Tokenizer
from errors import InputError
from evaluation.score import Score, Scoring, Split
from evaluation.windows import WindowPlan, Windows, evaluate
from runtime.ranks import World
from tests.ranks import on_ranks
from tests.small import trained_tokenizer

CPU = torch.device("cpu")
VOCAB = 320
SEQ_LEN = 64
DOCUMENTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 6,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; 🐦 übrigens. " * 5,
    "x",
    "A flock has no leader: each bird watches the seven birds that are nearest to it. " * 7,
]


class TableModel:
    """Nats of a target: a bigram table plus the mean of a value over the window so far.

    The mean depends on where the window begins, so a token scored with another context shows.
    """

    def __init__(self, device: torch.device = CPU, vocab: int = VOCAB) -> None:
        generator = torch.Generator().manual_seed(7)
        bigram = torch.rand(vocab, vocab, generator=generator, dtype=torch.float64)
        value = torch.rand(vocab, generator=generator, dtype=torch.float64)
        self.bigram, self.value = bigram.to(device), value.to(device)
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        assert inputs.dtype == targets.dtype == torch.int32
        assert inputs.is_contiguous() and targets.is_contiguous()
        assert torch.is_inference_mode_enabled()
        self.shapes.append((tuple(inputs.shape), tuple(targets.shape)))
        length, scored = inputs.shape[1], targets.shape[1]
        seen = torch.arange(1, length + 1, device=inputs.device)
        mean = self.value[inputs].cumsum(1) / seen
        return mean[:, -scored:] + self.bigram[inputs[:, -scored:], targets]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return trained_tokenizer(DOCUMENTS, VOCAB, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> ByteTable:
    return ByteTable.of(tokenizer)


@pytest.fixture(scope="module")
def tokens(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.encode_documents(DOCUMENTS)


def stream_of(tokens: np.ndarray, folder: Path, shards: int = 2) -> TokenStream:
    paths = []
    for index, part in enumerate(np.array_split(tokens.astype(np.uint16), shards)):
        paths.append(folder / f"val_{len(tokens)}_{index}.bin")
        write_shard(paths[-1], part)
    return TokenStream(paths, VOCAB)


def score(stream: TokenStream, table: ByteTable, stride: int, **changes: Any) -> Score:
    """Score with a `TableModel` in batches of 5 windows, if nothing else is given."""
    defaults = {"score_fn": TableModel(), "seq_len": SEQ_LEN, "world": World.single(CPU)}
    given = defaults | {"max_tokens": 0, "progress": None} | changes
    split = Split(stream, table, given["max_tokens"])
    plan = WindowPlan(given["seq_len"], stride, batch=5)
    scoring = Scoring(given["world"], given["progress"])
    return evaluate(given["score_fn"], split, plan, scoring)


def naive(tokens: np.ndarray, table: ByteTable, seq_len: int, stride: int) -> Score:
    """One token at a time: find its context, score it, count its bytes."""
    model, last = TableModel(), len(tokens) - 1
    nats, byte_count = 0.0, 0
    for target in range(1, last + 1):
        begin = 0
        if target > seq_len:
            steps = math.ceil((target - seq_len) / stride)
            begin = min(seq_len + steps * stride, last) - seq_len
        values = [model.value[int(token)].item() for token in tokens[begin:target]]
        before, token = int(tokens[target - 1]), int(tokens[target])
        nats += sum(values) / len(values) + model.bigram[before, token].item()
        byte_count += int(table.base[token])
        if table.leading_space[token] and not table.boundary[before]:
            byte_count += 1
    bpb = nats / last / math.log(2) * last / byte_count
    return Score(nats / last, bpb, last, byte_count, 0.0)


def assert_same(found: Score, expected: Score) -> None:
    assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
    assert found.nats == pytest.approx(expected.nats, rel=1e-12)
    assert found.bpb == pytest.approx(expected.bpb, rel=1e-12)


@pytest.mark.parametrize("stride", [1, 7, 63, SEQ_LEN])
def test_equals_one_token_at_a_time(
    stride: int, tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    assert (len(tokens) - 1 - SEQ_LEN) % 7 and (len(tokens) - 1) % SEQ_LEN  # a last, partial window
    found = score(stream_of(tokens, tmp_path), table, stride)
    assert_same(found, naive(tokens, table, SEQ_LEN, stride))


@pytest.mark.parametrize("count", [2, 3, SEQ_LEN, SEQ_LEN + 1, SEQ_LEN + 2, 2 * SEQ_LEN + 1])
@pytest.mark.parametrize("stride", [7, SEQ_LEN])
def test_splits_about_the_size_of_a_window(
    count: int, stride: int, tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    part = tokens[5 : 5 + count]
    found = score(stream_of(part, tmp_path, shards=1), table, stride)
    assert_same(found, naive(part, table, SEQ_LEN, stride))


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("targets", [5, 8, 9, 11, 16, 45])
def test_every_token_is_scored_exactly_once(stride: int, targets: int, tmp_path: Path) -> None:
    """Target i costs 2^i: ``targets`` powers of two add up to this sum only if all differ."""
    ones = np.ones(targets + 1, np.int16)
    table = ByteTable(ones, ones < 0, ones < 0)
    stream = stream_of(np.arange(targets + 1), tmp_path, shards=1)
    found = score(stream, table, stride, seq_len=8, score_fn=lambda _, targets: 2.0**targets)
    assert found.tokens == targets
    assert round(found.nats * targets) == 2 ** (targets + 1) - 2


def test_bytes_are_those_of_the_text(
    tokens: np.ndarray, table: ByteTable, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Equality holds where the split is whole documents, BOS first, without an unknown token.

    The text is the decoded one, here the source itself: what a normalising tokenizer drops before
    it makes tokens is in neither count. A document's leading space would decode and count none.
    """
    starts = [*np.flatnonzero(tokens == tokenizer.bos_id), len(tokens)]
    texts = [tokenizer.decode(tokens[begin:end]) for begin, end in pairwise(starts)]
    assert texts == DOCUMENTS
    found = score(stream_of(tokens, tmp_path), table, SEQ_LEN)
    assert found.bytes == sum(len(text.encode()) for text in texts)


def test_a_space_counts_unless_a_boundary_precedes_it(tmp_path: Path) -> None:
    """Tokens: 0 is BOS, 1 is a space mark and three bytes, 2 is a byte token."""
    table = ByteTable(
        np.array([0, 3, 1], np.int16), np.array([0, 1, 0], bool), np.array([1, 0, 0], bool)
    )
    stream = stream_of(np.array([0, 1, 1, 2, 1, 0, 1]), tmp_path, shards=1)
    assert score(stream, table, SEQ_LEN).bytes == 3 + 4 + 1 + 4 + 0 + 3


def test_bits_per_byte_of_a_uniform_guess(
    tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    def score_fn(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, math.log(VOCAB))

    found = score(stream_of(tokens, tmp_path), table, SEQ_LEN, score_fn=score_fn)
    assert found.nats == pytest.approx(math.log(VOCAB), rel=1e-7)  # ln(320) as fp32
    assert found.bpb == pytest.approx(math.log2(VOCAB) * found.tokens / found.bytes, rel=1e-7)


@pytest.mark.parametrize("stride", [7, SEQ_LEN])
@pytest.mark.parametrize("limit", [1, SEQ_LEN - 1, SEQ_LEN, 150, 10**9])
def test_max_tokens_is_the_beginning_of_the_split(
    stride: int, limit: int, tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    found = score(stream_of(tokens, tmp_path), table, stride, max_tokens=limit)
    short = stream_of(tokens[: limit + 1], tmp_path, shards=1)
    assert_same(found, score(short, table, stride))


@pytest.mark.parametrize(("stride", "kinds"), [(7, [(5, 7), (5, 64)]), (64, [(5, 64)])])
def test_a_compiled_model_sees_few_shapes(
    stride: int, kinds: list[tuple[int, int]], tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    model = TableModel()
    calls: list[tuple[int, int]] = []
    score(
        stream_of(tokens, tmp_path),
        table,
        stride,
        score_fn=model,
        progress=lambda done, total: calls.append((done, total)),
    )
    shapes = [((batch, SEQ_LEN), (batch, scored)) for batch, scored in kinds]
    assert sorted(set(model.shapes)) == shapes
    windows = len(Windows(len(tokens) - 1, SEQ_LEN, stride))
    assert len(calls) == len(model.shapes)
    assert calls[-1] == (windows, windows) and calls == sorted(calls)


def test_not_a_number_is_not_hidden(tokens: np.ndarray, table: ByteTable, tmp_path: Path) -> None:
    def score_fn(inputs: Tensor, targets: Tensor) -> Tensor:
        return torch.full(targets.shape, float("nan"))

    found = score(stream_of(tokens, tmp_path), table, SEQ_LEN, score_fn=score_fn)
    assert math.isnan(found.nats) and math.isnan(found.bpb)


def test_nothing_to_score_is_an_input_error(table: ByteTable, tmp_path: Path) -> None:
    lone = stream_of(np.array([1]), tmp_path, shards=1)
    with pytest.raises(InputError, match="nothing to score"):
        score(lone, table, 8)
    controls = stream_of(np.array([1, 1, 1]), tmp_path, shards=1)
    with pytest.raises(InputError, match="stand for no text"):
        score(controls, table, 8)


@pytest.mark.parametrize("stride", [0, SEQ_LEN + 1])
def test_an_impossible_stride_is_an_input_error(
    stride: int, tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="choose a stride of 1 to 64"):
        score(stream_of(tokens, tmp_path), table, stride)


RANK_CASES: list[tuple[int, int]] = [(1, 0), (7, 0), (SEQ_LEN, 0), (7, 5), (SEQ_LEN, 150)]


def score_as_rank(world: World, folder: Path, table: ByteTable) -> list[Score]:
    stream = TokenStream.open(folder, "val", VOCAB)
    begin = time.perf_counter()
    scores = [
        score(stream, table, stride, world=world, max_tokens=limit) for stride, limit in RANK_CASES
    ]
    elapsed = time.perf_counter() - begin
    assert world.rank or sum(result.seconds for result in scores) < elapsed
    return scores


def test_two_ranks_agree_with_one_process(
    tokens: np.ndarray, table: ByteTable, tmp_path: Path
) -> None:
    """One of the cases has a single window, so one rank has nothing to do."""
    stream = stream_of(tokens, tmp_path)
    rank0, rank1 = on_ranks(2, score_as_rank, tmp_path, table)
    assert rank1 == rank0
    for (stride, limit), row in zip(RANK_CASES, rank0, strict=True):
        assert_same(row, score(stream, table, stride, max_tokens=limit))


@pytest.mark.gpu
@pytest.mark.parametrize("stride", [7, SEQ_LEN])
def test_a_gpu_agrees(stride: int, tokens: np.ndarray, table: ByteTable, tmp_path: Path) -> None:
    gpu = torch.device("cuda", 0)
    stream = stream_of(tokens, tmp_path)
    model, world = TableModel(gpu), World.single(gpu)
    found = score(stream, table, stride, score_fn=model, world=world)
    assert_same(found, score(stream, table, stride))
