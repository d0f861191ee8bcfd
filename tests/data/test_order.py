"""The order of the text: each block once a pass, spread over the corpus, the same for ever."""

import numpy as np
import pytest

from data.order import BlockOrder, unevenness

SEQ_LEN = 8


def test_later_passes_cut_and_order_the_text_anew():
    order = BlockOrder(tokens=8001, length=SEQ_LEN, seed=5)
    windows = order.blocks
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
    order = BlockOrder(tokens, SEQ_LEN, seed=0)
    starts = [order.start(counter) for counter in range(50)]
    assert min(starts) >= 0
    assert max(starts) + SEQ_LEN < tokens


@pytest.mark.parametrize("windows", [1000, 29_271, 48_828, 65_536, 4_882_812])
@pytest.mark.parametrize("seed", [0, 1337])
def test_any_run_of_windows_is_spread_over_the_corpus(windows: int, seed: int):
    order = BlockOrder((windows + 1) * SEQ_LEN, SEQ_LEN, seed)
    assert order.blocks == windows
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
    order = BlockOrder(tokens=100_000, length=100, seed=1337)
    starts = [order.start(counter) for counter in (0, 1, 2, 998, 999, 1000)]
    assert starts == [39400, 16800, 94100, 62000, 69699, 13399]


def test_a_position_within_a_block_goes_on_with_the_next_whole_window():
    order = BlockOrder(tokens=8001, length=8, seed=5)
    assert [order.window(counter, 4) for counter in (0, 1)] == [order.start(0), order.start(0) + 4]
    assert order.window(6, 3) == order.start(3)  # two windows of 3 in 8 tokens, 2 left out
