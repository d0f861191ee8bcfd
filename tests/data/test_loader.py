"""What BatchLoader promises: each window once, one global batch, exact resume, clear failures."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from data.loader import BatchLoader, WindowOrder, unevenness
from data.shards import TokenStream, shard_name, write_shard
from errors import InputError

SEQ_LEN = 8
SHARDS = (41, 3, 150, 78)
TOKENS = sum(SHARDS)
WINDOWS = TOKENS // SEQ_LEN - 1
BATCH_WINDOWS = 12


@pytest.fixture
def stream(tmp_path: Path) -> TokenStream:
    """272 tokens 0, 1, 2, ... in shards whose borders lie within windows."""
    tokens = np.arange(TOKENS, dtype=np.uint16)
    for index, part in enumerate(np.split(tokens, np.cumsum(SHARDS)[:-1])):
        write_shard(tmp_path / shard_name("train", index), part)
    return TokenStream.open(tmp_path, "train", TOKENS)


def load(stream: TokenStream, *, rank: int = 0, world_size: int = 1, accumulation: int = 1):
    return BatchLoader(
        stream,
        seq_len=SEQ_LEN,
        batch_tokens=BATCH_WINDOWS * SEQ_LEN,
        accumulation=accumulation,
        rank=rank,
        world_size=world_size,
        seed=5,
        device=torch.device("cpu"),
    )


def global_steps(stream: TokenStream, steps: int, world_size: int, accumulation: int):
    """The global batch of each step, put together from every rank's rows: (steps, windows, T)."""
    loaders = [
        load(stream, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    batches = []
    for _ in range(steps):
        by_rank = [loader.next_step() for loader in loaders]
        rows = [inputs for micro in zip(*by_rank, strict=True) for inputs, _ in micro]
        batches.append(torch.cat(rows))
    for loader in loaders:
        loader.close()
    return torch.stack(batches)


SPLITS = [(1, 1), (2, 1), (2, 3), (3, 2), (4, 1), (4, 3)]


@pytest.mark.parametrize(("world_size", "accumulation"), SPLITS)
def test_a_pass_visits_every_window_once(stream: TokenStream, world_size: int, accumulation: int):
    steps = -(-WINDOWS // BATCH_WINDOWS)
    batches = global_steps(stream, steps, world_size, accumulation)
    starts = batches.flatten(0, 1)[:WINDOWS, 0]
    assert sorted(starts.tolist()) == list(range(0, WINDOWS * SEQ_LEN, SEQ_LEN))


@pytest.mark.parametrize(("world_size", "accumulation"), SPLITS[1:])
def test_the_global_batch_is_the_same_for_every_split(
    stream: TokenStream, world_size: int, accumulation: int
):
    one = global_steps(stream, 8, 1, 1)
    assert torch.equal(one, global_steps(stream, 8, world_size, accumulation))


def test_rows_are_runs_of_the_text_and_targets_the_shift(stream: TokenStream):
    loader = load(stream, accumulation=2)
    for _ in range(9):
        step = loader.next_step()
        assert len(step) == 2
        for inputs, targets in step:
            assert inputs.shape == targets.shape == (BATCH_WINDOWS // 2, SEQ_LEN)
            assert inputs.dtype == targets.dtype == torch.int32
            # The stream counts up by one, so a window across a shard border shows a seam if any.
            assert torch.equal(inputs, inputs[:, :1] + torch.arange(SEQ_LEN, dtype=torch.int32))
            assert torch.equal(targets, inputs + 1)
    loader.close()


def test_batches_handed_out_are_not_written_again(stream: TokenStream):
    loader = load(stream)
    inputs, _ = loader.next_step()[0]
    kept = inputs.clone()
    for _ in range(6):
        loader.next_step()
    loader.close()
    assert torch.equal(inputs, kept)


def test_later_passes_cut_and_order_the_text_anew():
    order = WindowOrder(tokens=8001, seq_len=SEQ_LEN, seed=5)
    windows = order.windows
    passes = [[order.start(p * windows + visit) for visit in range(windows)] for p in range(30)]
    offsets = [min(starts) for starts in passes]
    assert offsets[0] == 0
    assert set(offsets) == set(range(SEQ_LEN))
    for offset, starts in zip(offsets, passes, strict=True):
        assert sorted(starts) == list(range(offset, offset + windows * SEQ_LEN, SEQ_LEN))
        assert max(starts) + SEQ_LEN < 8001
    assert len({tuple(np.diff(starts)) for starts in passes}) == len(passes)


@pytest.mark.parametrize("tokens", range(SEQ_LEN + 1, 4 * SEQ_LEN))
def test_the_shortest_texts_still_give_whole_windows(tokens: int):
    order = WindowOrder(tokens, SEQ_LEN, seed=0)
    starts = [order.start(counter) for counter in range(50)]
    assert min(starts) >= 0
    assert max(starts) + SEQ_LEN < tokens


@pytest.mark.parametrize("windows", [1000, 29_271, 48_828, 65_536, 4_882_812])
@pytest.mark.parametrize("seed", [0, 1337])
def test_any_run_of_windows_is_spread_over_the_corpus(windows: int, seed: int):
    order = WindowOrder((windows + 1) * SEQ_LEN, SEQ_LEN, seed)
    assert order.windows == windows
    for batch, first in ((16, 0), (64, 64), (384, 384)):
        starts = np.sort([order.start(first + visit) // SEQ_LEN for visit in range(batch)])
        gaps = np.diff(starts, append=starts[0] + windows)
        assert gaps.max() <= 5 * windows / batch


def test_unevenness_tells_bad_strides():
    assert unevenness(89, 55) == 2  # neighbours in Fibonacci's sequence are the evenest
    assert unevenness(89, 1) == 89
    assert unevenness(1000, 501) > 100
    assert unevenness(1000, 999) > 900
    assert unevenness(1000, 400) == float("inf")


def test_the_order_is_pinned_for_checkpoints_to_come():
    order = WindowOrder(tokens=100_000, seq_len=100, seed=1337)
    starts = [order.start(counter) for counter in (0, 1, 2, 998, 999, 1000)]
    assert starts == [39400, 16800, 94100, 62000, 69699, 13399]


def test_the_position_resumes_exactly_and_ignores_what_was_prefetched(stream: TokenStream):
    straight, resumed = load(stream, accumulation=3), load(stream, accumulation=3)
    for _ in range(5):
        straight.next_step()
    assert straight.position == 5 * BATCH_WINDOWS
    resumed.next_step()
    resumed.position = straight.position
    for _ in range(4):
        for one, other in zip(straight.next_step(), resumed.next_step(), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert resumed.position == straight.position == 9 * BATCH_WINDOWS
    straight.close()
    resumed.close()


def test_a_failure_in_the_thread_surfaces_and_the_step_can_be_tried_again(
    stream: TokenStream, monkeypatch: pytest.MonkeyPatch
):
    loader = load(stream)
    expected = loader.next_step()
    loader.position = 0
    with monkeypatch.context() as patch:
        patch.setattr(stream, "read", lambda start, count: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            loader.next_step()
    assert loader.position == 0
    assert torch.equal(loader.next_step()[0][0], expected[0][0])
    loader.close()


def test_close_ends_the_thread(stream: TokenStream):
    before = threading.active_count()
    loader = load(stream)
    loader.next_step()
    assert threading.active_count() == before + 1
    loader.close()
    assert threading.active_count() == before
    loader.close()


def test_a_batch_that_does_not_divide_names_the_nearest(stream: TokenStream):
    with pytest.raises(InputError, match=r"96 tokens.* 8 x 5 x 1 = 40; the nearest is 80"):
        load(stream, world_size=5)
    with pytest.raises(InputError, match=r"8 x 32 x 1 = 256; the nearest is 256"):
        load(stream, world_size=32)


def test_less_than_a_window_is_refused(tmp_path: Path):
    path = tmp_path / "train.bin"
    write_shard(path, np.zeros(SEQ_LEN, dtype=np.uint16))
    with pytest.raises(InputError, match="8 tokens are fewer than one window of 8"):
        load(TokenStream([path], 1))


@pytest.mark.gpu
def test_batches_on_the_gpu_are_those_on_the_cpu(stream: TokenStream):
    on_cpu = load(stream)
    on_gpu = BatchLoader(
        stream,
        seq_len=SEQ_LEN,
        batch_tokens=BATCH_WINDOWS * SEQ_LEN,
        accumulation=1,
        rank=0,
        world_size=1,
        seed=5,
        device=torch.device("cuda", 0),
    )
    wanted = [on_cpu.next_step()[0] for _ in range(50)]
    got = [on_gpu.next_step()[0] for _ in range(50)]
    for (inputs, targets), (cuda_inputs, cuda_targets) in zip(wanted, got, strict=True):
        assert cuda_inputs.is_cuda
        assert torch.equal(inputs, cuda_inputs.cpu())
        assert torch.equal(targets, cuda_targets.cpu())
    on_cpu.close()
    on_gpu.close()
