"""rANS: exact, at the entropy, and a ValueError for whatever is not its stream."""

import numpy as np
import pytest

from artifact.format.ans import (
    LOWEST,
    PRECISION,
    SYMBOLS_A_LANE,
    TOTAL,
    Model,
    count,
    decode,
    encode,
)


def drawn(size: int, contexts: int = 4, symbols: int = 63) -> tuple[np.ndarray, np.ndarray]:
    """Symbols whose spread grows with their context, and the contexts."""
    generator = np.random.default_rng(size)
    context = generator.integers(0, contexts, size).astype(np.uint8)
    spread = 1 + 2.0 * context
    middle = symbols // 2
    values = np.rint(generator.standard_normal(size) * spread + middle)
    return values.clip(0, symbols - 1).astype(np.uint8), context


def fitted(symbols: np.ndarray, context: np.ndarray) -> Model:
    return Model.fit(count(symbols, context, (4, 63)))


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 8191, 16_384, 50_001])
def test_round_trip(size: int) -> None:
    symbols, context = drawn(size)
    model = fitted(symbols, context)
    assert np.array_equal(decode(encode(symbols, context, model), context, model), symbols)


@pytest.mark.parametrize("size", [1, 8191, 20_001])
def test_bytes_are_those_of_whole_numbers(size: int) -> None:
    """The same, a symbol at a time and without a bound on any number: files must not change."""
    symbols, context = drawn(size)
    model = fitted(symbols, context)
    lanes = max(size // SYMBOLS_A_LANE, 1)
    states, words = [LOWEST] * lanes, []
    for place in reversed(range(size)):
        row, symbol, state = context[place], symbols[place], states[place % lanes]
        frequency = int(model.frequencies[row, symbol])
        if state >= frequency << (32 - PRECISION):
            words.append(state & 0xFFFF)
            state >>= 16
        start = int(model.frequencies[row, :symbol].sum())
        states[place % lanes] = (state // frequency << PRECISION) + state % frequency + start
    expected = np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()
    assert encode(symbols, context, model) == expected


def test_takes_what_the_entropy_says() -> None:
    """Two bytes a lane of 8192 symbols, and what frequencies of 14 bits cannot say."""
    symbols, context = drawn(400_000)
    counts = count(symbols, context, (4, 63))
    share = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(counts[counts > 0] * np.log2(share[counts > 0])).sum() / 8
    model = Model.fit(counts)
    assert len(encode(symbols, context, model)) < 1.002 * entropy
    assert entropy < model.bits(counts) / 8 < 1.001 * entropy


def test_what_is_certain_takes_nothing() -> None:
    symbols = np.full(100_000, 7, np.uint8)
    context = np.zeros_like(symbols)
    model = fitted(symbols, context)
    packed = encode(symbols, context, model)
    assert len(packed) == 4 * 12
    assert np.array_equal(decode(packed, context, model), symbols)


def test_frequencies_are_whole_and_leave_out_nothing_that_occurs() -> None:
    counts = np.array([[10**9, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [5, 0, 0, 0]])
    frequencies = Model.fit(counts).frequencies
    assert (frequencies.sum(axis=1) == TOTAL).all()
    assert (frequencies[counts > 0] > 0).all()
    assert frequencies[0].tolist() == [TOTAL - 2, 1, 0, 1]


def test_a_model_comes_back_from_its_bytes() -> None:
    model = fitted(*drawn(5000))
    again = Model.from_bytes(model.to_bytes(), 4, 63)
    assert np.array_equal(again.frequencies, model.frequencies)
    with pytest.raises(ValueError, match="do not add up"):
        Model.from_bytes(b"\1" * 8, 2, 2)


@pytest.mark.parametrize("change", ["cut", "odd", "longer", "another", "empty"])
def test_another_stream_is_refused(change: str) -> None:
    symbols, context = drawn(20_000)
    model = fitted(symbols, context)
    packed = encode(symbols, context, model)
    noise = bytes([packed[0] ^ 1]) + packed[1:]
    changed = {"cut": packed[:-2], "odd": packed[:-1], "longer": packed + b"\0\0", "empty": b""}
    with pytest.raises(ValueError, match=r"it is cut short|it does not end"):
        decode(changed.get(change, noise), context, model)


def test_precision_leaves_room_for_a_word() -> None:
    """A state of 32 bits that takes 16 at a time needs frequencies of at most 16 bits."""
    assert PRECISION <= 16
