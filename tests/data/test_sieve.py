"""Windows of noise are told from text, and text of a later pass is read in their place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.batch import Batch, BatchShape, document_bounds
from data.loader import BatchLoader
from data.shards import TokenStream, shard_name, write_shard
from data.sieve import Sieve

V, T, TOKENS = 512, 256, 256 * 400
FIRST, LAST = 256 * 100, 256 * 140  # of the noise: a tenth


def text(seed: int = 0) -> np.ndarray:
    """Tokens as frequent as words are: the k-th as 1 / k."""
    shares = 1 / np.arange(1, V + 1)
    generator = np.random.default_rng(seed)
    return generator.choice(V, size=TOKENS, p=shares / shares.sum()).astype(np.uint16)


def spoilt(seed: int = 0) -> np.ndarray:
    tokens = text(seed)
    tokens[FIRST:LAST] = np.random.default_rng(seed + 1).integers(V, size=LAST - FIRST)
    return tokens


def stream_of(folder: Path, tokens: np.ndarray) -> TokenStream:
    write_shard(folder / shard_name("train", 0), tokens)
    return TokenStream.open(folder, "train", V)


@pytest.mark.parametrize("seed", range(5))
def test_windows_of_noise_are_found_though_the_sample_holds_them(tmp_path: Path, seed: int):
    tokens = spoilt(seed)
    sieve = Sieve(stream_of(tmp_path, tokens), V, [T])
    windows = np.arange(TOKENS // T) * T
    assert windows[sieve.noise(tokens.reshape(-1, T))].tolist() == list(range(FIRST, LAST, T))


@pytest.mark.parametrize("length", [16, 64, 4096])
def test_a_corpus_that_is_noise_is_none(tmp_path: Path, length: int):
    """Its windows are all as likely, about half of them less likely than by a guess."""
    tokens = np.random.default_rng(3).integers(V, size=TOKENS, dtype=np.uint16)
    sieve = Sieve(stream_of(tmp_path, tokens), V, [length])
    assert not sieve.noise(tokens[: TOKENS // length * length].reshape(-1, length)).any()


@pytest.mark.parametrize("length", [256, 1024, 2048])
def test_no_window_of_the_built_in_text_is_noise(builtin: Path, length: int):
    stream = TokenStream.open(builtin, "train", 1024)
    sieve = Sieve(stream, 1024, [length])
    tokens = stream.read(0, len(stream) // length * length)
    assert not sieve.noise(tokens.reshape(-1, length)).any()


def loader_of(
    stream: TokenStream, sieve: Sieve | None, rank: int = 0, ranks: int = 1, documents: bool = True
) -> BatchLoader:
    shapes = [BatchShape(12 * T, T, 1, documents)]
    options = {"rank": rank, "world_size": ranks, "seed": 2, "bos_id": 1}
    return BatchLoader(stream, shapes, **options, device=torch.device("cpu"), sieve=sieve)


def steps_of(loader: BatchLoader, steps: int) -> list[Batch]:
    taken = [loader.next_step()[0] for _ in range(steps)]
    loader.close()
    return taken


def test_text_of_a_later_pass_is_read_in_the_place_of_noise(tmp_path: Path):
    stream = stream_of(tmp_path, spoilt())
    sieve, steps = Sieve(stream, V, [T]), 33
    plain, sieved = loader_of(stream, None), loader_of(stream, sieve)
    before, after = steps_of(plain, steps), steps_of(sieved, steps)
    replaced = 0
    for old, new in zip(before, after, strict=True):
        noise = sieve.noise(old.tokens.numpy())
        assert not sieve.noise(new.tokens.numpy()).any()
        kept = torch.from_numpy(~noise)
        for name in ("tokens", "targets"):
            assert torch.equal(getattr(old, name)[kept], getattr(new, name)[kept])
        assert torch.equal(new.tokens[:, 1:], new.targets[:, :-1])
        replaced += int(noise.sum())
    assert 35 <= replaced <= 45  # a pass reads each of 40 windows about once
    assert (plain.noise, sieved.noise) == (0, replaced)


def test_bounds_are_those_of_the_text_that_is_read(tmp_path: Path):

    stream = stream_of(tmp_path, spoilt())
    for batch in steps_of(loader_of(stream, Sieve(stream, V, [T])), 12):
        assert batch.bounds is not None
        found = document_bounds(batch.tokens.numpy(), 1)
        assert np.array_equal(batch.bounds.numpy(), found)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_read_what_one_rank_reads(tmp_path: Path, ranks: int):
    stream = stream_of(tmp_path, spoilt())
    sieve = Sieve(stream, V, [T])
    alone = loader_of(stream, sieve)
    loaders = [loader_of(stream, sieve, rank, ranks) for rank in range(ranks)]
    whole, parts = steps_of(alone, 10), [steps_of(loader, 10) for loader in loaders]
    for step, batch in enumerate(whole):
        assert torch.equal(batch.tokens, torch.cat([part[step].tokens for part in parts]))
    assert sum(loader.noise for loader in loaders) == alone.noise > 0


def test_a_resumed_loader_reads_the_same(tmp_path: Path):
    stream = stream_of(tmp_path, spoilt())
    sieve = Sieve(stream, V, [T])
    whole, resumed = steps_of(loader_of(stream, sieve), 20), loader_of(stream, sieve)
    resumed.position = 7 * 12 * T
    for old, new in zip(whole[7:], steps_of(resumed, 13), strict=True):
        assert torch.equal(old.tokens, new.tokens)


def test_where_all_is_noise_noise_is_read(tmp_path: Path):
    """The search for text ends, and all windows are counted."""
    stream = stream_of(tmp_path, text())
    sieve = Sieve(stream, V, [T])
    other = tmp_path / "noise"
    other.mkdir()
    noise = stream_of(other, np.random.default_rng(0).integers(V, size=TOKENS, dtype=np.uint16))
    loader = loader_of(noise, sieve)
    steps_of(loader, 3)
    assert loader.noise == 36
