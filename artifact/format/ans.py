"""Range asymmetric numeral systems (rANS): codes of known distributions, packed to their entropy.

From J. Duda, "Asymmetric numeral systems" (2013, arXiv:1311.2540); the interleaving of many lanes,
which is what lets NumPy do the work, from F. Giesen (2014, arXiv:1402.3392). LZMA, zstandard and
brotli find their statistics as they go and pay for it; quantised weights have nothing to find but
their distribution, which costs a few hundred bytes to write down.

A symbol's context picks its distribution. All arithmetic is on integers, so that every machine
decodes the same. Whatever a stream holds, decoding it takes time and memory in proportion to the
symbols asked for, which the caller knows.
"""

import struct
from dataclasses import dataclass

import numpy as np

PRECISION = 14  # a distribution's frequencies sum to 2^14
TOTAL = 1 << PRECISION
LOWEST = 1 << 16  # a lane's state lies in [2^16, 2^32): it spills and takes words of 16 bits
SYMBOLS_A_LANE = 8192  # a lane costs two bytes
MOST_LANES = 1 << 16
FEW = 16  # lanes; for fewer, NumPy's calls take longer than Python's integers
SHAPE = struct.Struct("<BH")  # contexts, symbols


@dataclass(frozen=True)
class Model:
    """Distributions of symbols.

    Attributes:
        frequencies: (contexts, symbols) uint32; each row sums to ``TOTAL``.

    Raises:
        ValueError: a row sums to something else.
    """

    frequencies: np.ndarray

    def __post_init__(self) -> None:
        if not (self.frequencies.sum(axis=1, dtype=np.uint64) == TOTAL).all():
            raise ValueError("its distributions do not add up")

    @classmethod
    def fit(cls, counts: np.ndarray) -> "Model":
        """Return the model of ``counts`` (contexts, symbols); all that occur have frequencies."""
        return cls(np.stack([_frequencies(row) for row in counts.astype(np.float64)]))

    @property
    def starts(self) -> np.ndarray:
        """(contexts, symbols) uint32: the sum of the frequencies before each."""
        return np.cumsum(self.frequencies, axis=1, dtype=np.uint32) - self.frequencies

    def bits(self, counts: np.ndarray) -> float:
        """Return the bits of ``counts`` (contexts, symbols): `encode` needs few more."""
        occur = counts > 0
        return float((counts[occur] * (PRECISION - np.log2(self.frequencies[occur]))).sum())

    def to_bytes(self) -> bytes:
        """Return the frequencies, low bytes before high bytes."""
        planes = self.frequencies.astype("<u2").view(np.uint8).reshape(-1, 2)
        return planes.T.tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes, contexts: int, symbols: int) -> "Model":
        """Undo `to_bytes`. Raises ValueError for anything else."""
        planes = np.frombuffer(raw, np.uint8).reshape(2, contexts * symbols).T
        frequencies = np.ascontiguousarray(planes).view("<u2").astype(np.uint32)
        return cls(frequencies.reshape(contexts, symbols))


def count(symbols: np.ndarray, contexts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each symbol occurs in each context, ``shape`` (contexts, symbols) int64."""
    places = _places(symbols, contexts, shape[1])
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def encode(symbols: np.ndarray, contexts: np.ndarray, model: Model) -> bytes:
    """Pack ``symbols`` (n,) uint8 of ``contexts`` (n,) uint8, all of which ``model`` knows."""
    lanes = _lanes(len(symbols))
    places = _places(symbols, contexts, model.frequencies.shape[1])
    frequencies, starts, spilled = model.frequencies.ravel(), model.starts.ravel(), []
    if lanes < FEW:
        return _encode_few(frequencies[places].tolist(), starts[places].tolist(), lanes)
    states = np.full(lanes, LOWEST, np.uint32)
    for begin in range(len(symbols) - len(symbols) % lanes, -1, -lanes):
        place = places[begin : begin + lanes]
        state, frequency = states[: len(place)], frequencies[place]
        full = state >> (32 - PRECISION) >= frequency
        spilled.append(state[full].astype("<u2"))
        state[full] >>= 16
        whole, rest = np.divmod(state, frequency)
        state[:] = (whole << PRECISION) + rest + starts[place]
    return states.astype("<u4").tobytes() + np.concatenate(spilled[::-1]).tobytes()


def _encode_few(frequencies: list[int], starts: list[int], lanes: int) -> bytes:
    """Pack symbols of which frequency and start are given, as `encode`."""
    states, spilled = [LOWEST] * lanes, []
    for index in range(len(frequencies) - 1, -1, -1):
        state, frequency = states[index % lanes], frequencies[index]
        if state >> (32 - PRECISION) >= frequency:
            spilled.append(state & 0xFFFF)
            state >>= 16
        whole, rest = divmod(state, frequency)
        states[index % lanes] = (whole << PRECISION) + rest + starts[index]
    return np.array(states, "<u4").tobytes() + np.array(spilled[::-1], "<u2").tobytes()


def decode(packed: bytes, contexts: np.ndarray, model: Model) -> np.ndarray:
    """Undo `encode`: the symbols (n,) uint8 of ``contexts`` (n,) uint8.

    Raises:
        ValueError: ``packed`` is not a stream of exactly so many symbols of this model.
    """
    lanes = _lanes(len(contexts))
    if len(packed) < 4 * lanes or len(packed) % 2:
        raise ValueError("it is cut short")
    states = np.frombuffer(packed, "<u4", lanes).copy()
    words = np.frombuffer(packed, "<u2", offset=4 * lanes).astype(np.uint32)
    firsts = contexts.astype(np.uint32) << PRECISION
    if lanes < FEW:
        return _decode_few(states.tolist(), words.tolist(), firsts.tolist(), model)
    symbols, read = np.empty(len(contexts), np.uint8), 0
    symbol_at, gain, offset = _slots(model)
    for begin in range(0, len(contexts), lanes):
        first = firsts[begin : begin + lanes]
        state = states[: len(first)]
        slot = (state & (TOTAL - 1)) + first
        symbols[begin : begin + lanes] = symbol_at[slot]
        state >>= PRECISION
        state *= gain[slot]
        state += offset[slot]
        low = (state < LOWEST).nonzero()[0]
        taken = words[read : read + len(low)]
        if len(taken) < len(low):
            raise ValueError("it is cut short")
        state[low] = (state[low] << 16) | taken
        read += len(low)
    if read != len(words) or (states != LOWEST).any():
        raise ValueError("it does not end where its symbols do")
    return symbols


def _decode_few(states: list[int], words: list[int], firsts: list[int], model: Model) -> np.ndarray:
    """Undo `_encode_few`: as `decode`, given states, words and the first slot of each context."""
    symbol_at, gain, offset = (column.data for column in _slots(model))  # items are integers
    symbols, lanes, read = bytearray(), len(states), 0
    try:
        for index, first in enumerate(firsts):
            state = states[index % lanes]
            slot = (state & (TOTAL - 1)) + first
            symbols.append(symbol_at[slot])
            state = (state >> PRECISION) * gain[slot] + offset[slot]
            if state < LOWEST:
                state = state << 16 | words[read]
                read += 1
            states[index % lanes] = state
    except IndexError:
        raise ValueError("it is cut short") from None
    if read != len(words) or any(state != LOWEST for state in states):
        raise ValueError("it does not end where its symbols do")
    return np.frombuffer(bytes(symbols), np.uint8)


def _places(symbols: np.ndarray, contexts: np.ndarray, size: int) -> np.ndarray:
    """Return where each symbol of its context is in a flat table of ``size`` symbols a context."""
    return contexts.astype(np.int32) * size + symbols


def _lanes(symbols: int) -> int:
    return min(max(symbols // SYMBOLS_A_LANE, 1), MOST_LANES)


def _slots(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return symbol, frequency and offset in its range, by context and a state's low bits."""
    frequencies, size = model.frequencies, model.frequencies.shape[1]
    flat = frequencies.ravel()
    symbol = np.tile(np.arange(size, dtype=np.uint8), len(frequencies))
    place = np.arange(TOTAL, dtype=np.uint32)[None] - np.repeat(model.starts.ravel(), flat).reshape(
        -1, TOTAL
    )
    return np.repeat(symbol, flat), np.repeat(flat, flat), place.ravel()


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Scale ``counts`` to integers that sum to ``TOTAL``; none that occurs becomes zero."""
    if not counts.any():
        counts = np.ones_like(counts)
    frequencies = np.maximum(np.floor(counts * (TOTAL / counts.sum())), counts > 0)
    # What is missing or too much goes to or comes off the largest, where it matters least.
    while excess := int(frequencies.sum()) - TOTAL:
        largest = frequencies.argmax()
        frequencies[largest] -= min(excess, frequencies[largest] - 1)
    return frequencies.astype(np.uint32)
