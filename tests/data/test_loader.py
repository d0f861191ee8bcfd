"""What BatchLoader promises: each window once, one global batch, exact resume, clear failures."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batch import BatchShape, document_bounds
from data.loader import BatchLoader
from data.shards import TokenStream, shard_name, write_shard
from errors import InputError

SEQ_LEN = 8
SHARDS = (41, 3, 150, 78)
TOKENS = sum(SHARDS)
WINDOWS = TOKENS // SEQ_LEN - 1
BATCH_WINDOWS = 12
BOS = 7
CPU = torch.device("cpu")


@pytest.fixture
def stream(tmp_path: Path) -> TokenStream:
    """272 tokens 0, 1, 2, ... in shards whose borders lie within windows."""
    tokens = np.arange(TOKENS, dtype=np.uint16)
    for index, part in enumerate(np.split(tokens, np.cumsum(SHARDS)[:-1])):
        write_shard(tmp_path / shard_name("train", index), part)
    return TokenStream.open(tmp_path, "train", TOKENS)


def load(
    stream: TokenStream,
    *shapes: BatchShape,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    device: torch.device = CPU,
) -> BatchLoader:
    return BatchLoader(
        stream,
        shapes or (BatchShape(BATCH_WINDOWS * SEQ_LEN, SEQ_LEN, accumulation),),
        rank=rank,
        world_size=world_size,
        seed=5,
        bos_id=BOS,
        device=device,
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
        rows = [inputs for micro in zip(*by_rank, strict=True) for inputs, *_ in micro]
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


def test_text_repeats_from_the_second_pass_on(stream: TokenStream):
    loader = load(stream, BatchShape(SEQ_LEN, SEQ_LEN, 1))
    starts, repeats = [], []
    for _ in range(WINDOWS + 2):
        repeats.append(loader.repeats)
        starts.append(int(loader.next_step()[0].tokens[0, 0]))
    loader.close()
    assert repeats == [number >= WINDOWS for number in range(WINDOWS + 2)]
    assert len(set(starts[:WINDOWS])) == WINDOWS


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
        for inputs, targets, _ in step:
            assert inputs.shape == targets.shape == (BATCH_WINDOWS // 2, SEQ_LEN)
            assert inputs.dtype == targets.dtype == torch.int32
            # The stream counts up by one, so a window across a shard border shows a seam if any.
            assert torch.equal(inputs, inputs[:, :1] + torch.arange(SEQ_LEN, dtype=torch.int32))
            assert torch.equal(targets, inputs + 1)
    loader.close()


def test_batches_handed_out_are_not_written_again(stream: TokenStream):
    loader = load(stream)
    inputs = loader.next_step()[0].tokens
    kept = inputs.clone()
    for _ in range(6):
        loader.next_step()
    loader.close()
    assert torch.equal(inputs, kept)


def test_the_position_resumes_exactly_and_ignores_what_was_prefetched(stream: TokenStream):
    straight, resumed = load(stream, accumulation=3), load(stream, accumulation=3)
    for _ in range(5):
        straight.next_step()
    assert straight.position == 5 * BATCH_WINDOWS * SEQ_LEN
    resumed.next_step()
    resumed.position = straight.position
    for _ in range(4):
        for one, other in zip(straight.next_step(), resumed.next_step(), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert resumed.position == straight.position == 9 * BATCH_WINDOWS * SEQ_LEN
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


# Shapes of three stages: short windows, the longest with documents, and more tokens a step.
SHORT = BatchShape(96, 4, accumulation=2)
LONG = BatchShape(96, 8, documents=True)
WIDE = BatchShape(192, 8, accumulation=4)
SEQUENCE = (SHORT, SHORT, LONG, LONG, SHORT, WIDE, LONG)


def whole_steps(stream: TokenStream, world_size: int, shapes: tuple[BatchShape, ...] = SEQUENCE):
    """Inputs of each step of ``shapes`` over all ranks, and the loaders' position at the end."""
    loaders = [
        load(stream, LONG, SHORT, WIDE, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    steps = []
    for shape in shapes:
        by_rank = [loader.next_step(shape) for loader in loaders]
        rows = [batch.tokens for micro in zip(*by_rank, strict=True) for batch in micro]
        steps.append(torch.cat(rows))
    (position,) = {loader.position for loader in loaders}
    for loader in loaders:
        loader.close()
    return steps, position


def test_a_position_counts_the_tokens_of_all_shapes(stream: TokenStream):
    steps, position = whole_steps(stream, 1)
    assert position == sum(shape.batch_tokens for shape in SEQUENCE)
    assert [tuple(step.shape) for step in steps] == [
        (shape.batch_tokens // shape.seq_len, shape.seq_len) for shape in SEQUENCE
    ]


def test_steps_of_several_shapes_are_the_same_for_any_number_of_ranks(stream: TokenStream):
    one, _ = whole_steps(stream, 1)
    for ranks in (2, 3):
        many, _ = whole_steps(stream, ranks)
        assert all(map(torch.equal, one, many))


def test_a_pass_of_several_lengths_reads_each_token_once(stream: TokenStream):
    steps, position = whole_steps(stream, 1, (SHORT, LONG))
    assert position == 2 * 96 < WINDOWS * SEQ_LEN
    read = torch.cat([step.flatten() for step in steps]).tolist()
    assert len(set(read)) == len(read)


def test_short_windows_are_the_parts_of_the_long_ones(stream: TokenStream):
    (short,), _ = whole_steps(stream, 1, (SHORT,))
    (long,), _ = whole_steps(stream, 1, (LONG,))
    assert torch.equal(short.view(-1, 8), long)


def test_bounds_are_those_of_the_kernels_reference(stream: TokenStream):
    from kernels.attention import reference

    loader = load(stream, LONG)
    for _ in range(4):
        (batch,) = loader.next_step()
        assert batch.bounds is not None
        assert batch.bounds.dtype == torch.int32
        assert torch.equal(batch.bounds, reference.document_bounds(batch.tokens, BOS))
    loader.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_document_bounds_of_random_tokens_are_the_references(seed: int):
    from kernels.attention import reference

    draw = np.random.default_rng(seed)
    for length in (1, 2, 7, 33):
        tokens = draw.integers(0, 4, (5, length), dtype=np.int32)
        ours = torch.from_numpy(document_bounds(tokens, 1))
        assert torch.equal(ours, reference.document_bounds(torch.from_numpy(tokens), 1))


def test_only_batches_of_documents_have_bounds(stream: TokenStream):
    loader = load(stream, LONG, SHORT)
    assert all(batch.bounds is None for batch in loader.next_step(SHORT))
    loader.close()


def test_a_change_of_shape_uses_the_same_buffers_and_leaves_handed_out_batches(
    stream: TokenStream,
):
    others = threading.active_count()
    loader = load(stream, LONG, SHORT, WIDE)
    first = loader.next_step(LONG)[0].tokens
    kept = first.clone()
    addresses = [buffer.data_ptr() for buffer in loader._buffers]
    for shape in SEQUENCE:
        loader.next_step(shape)
    assert [buffer.data_ptr() for buffer in loader._buffers] == addresses
    assert threading.active_count() == others + 1
    loader.close()
    assert torch.equal(first, kept)


def test_a_position_resumes_within_a_stage_and_at_its_border(stream: TokenStream):
    straight, _ = whole_steps(stream, 1)
    for done in range(1, len(SEQUENCE)):
        loader = load(stream, LONG, SHORT, WIDE)
        loader.position = sum(shape.batch_tokens for shape in SEQUENCE[:done])
        for shape, wanted in zip(SEQUENCE[done:], straight[done:], strict=True):
            got = torch.cat([batch.tokens for batch in loader.next_step(shape)])
            assert torch.equal(got, wanted)
        loader.close()


@pytest.mark.gpu
def test_batches_on_the_gpu_are_those_on_the_cpu(stream: TokenStream):
    on_cpu = load(stream)
    on_gpu = load(stream, device=torch.device("cuda", 0))
    wanted = [on_cpu.next_step()[0] for _ in range(50)]
    got = [on_gpu.next_step()[0] for _ in range(50)]
    for (inputs, targets, _), (cuda_inputs, cuda_targets, _) in zip(wanted, got, strict=True):
        assert cuda_inputs.is_cuda
        assert torch.equal(inputs, cuda_inputs.cpu())
        assert torch.equal(targets, cuda_targets.cpu())
    on_cpu.close()
    on_gpu.close()


@pytest.mark.gpu
def test_steps_of_several_shapes_on_the_gpu_are_those_on_the_cpu(stream: TokenStream):
    on_cpu = load(stream, LONG, SHORT, WIDE)
    on_gpu = load(stream, LONG, SHORT, WIDE, device=torch.device("cuda", 0))
    for shape in 5 * SEQUENCE:
        for wanted, got in zip(on_cpu.next_step(shape), on_gpu.next_step(shape), strict=True):
            assert (got.bounds is None) == (wanted.bounds is None)
            for one, other in zip(wanted, got, strict=True):
                if one is not None and other is not None:
                    assert torch.equal(one, other.cpu())
    on_cpu.close()
    on_gpu.close()
