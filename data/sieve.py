"""Windows that are no text: noise, which the corpus' own frequencies predict worse than a guess."""

import math
from collections.abc import Iterable

import numpy as np

from data.shards import TokenStream

SAMPLE, PIECES = 2**21, 64  # tokens whose frequencies are counted, and pieces of them
SPREADS = 8.0  # median deviations from the median, up to which a window is like the others


class Sieve:
    """Judges windows by the nats that their tokens take by the corpus' frequencies.

    If all tokens are equally likely, they take more than ln V by any other frequencies (Gibbs'
    inequality). Text takes less: 6.9 nats of 9.0 with a vocabulary of 8,192, where noise takes
    10.4, and still 9.5 if a third of the sample is noise. The limit lies halfway between ln V and
    what noise takes. A corpus that is near noise itself has a higher one: the median of its
    windows, and ``SPREADS`` median deviations.
    """

    def __init__(self, stream: TokenStream, vocabulary: int, lengths: Iterable[int]) -> None:
        """Count a sample of evenly spaced pieces.

        Args:
            stream: the corpus.
            vocabulary: number of tokens.
            lengths: of the windows that will be judged, none longer than the corpus.
        """
        lengths = set(lengths)
        sample = _sample(stream, max(lengths))
        counts = 1 + np.bincount(sample, minlength=vocabulary)
        self._nats = np.log(counts.sum() / counts).astype(np.float32)
        halfway = (math.log(vocabulary) + float(self._nats.mean())) / 2
        self._limits = {each: max(halfway, self._largest(sample, each)) for each in lengths}

    def noise(self, windows: np.ndarray) -> np.ndarray:
        """Return which windows (rows, T) are noise: (rows,) booleans."""
        return self._nats[windows].mean(-1) > self._limits[windows.shape[-1]]

    def _largest(self, sample: np.ndarray, length: int) -> float:
        """Return the nats a token that a window of the sample does not take."""
        rows = sample[: len(sample) // length * length].reshape(-1, length)
        nats = self._nats[rows].mean(-1)
        middle = np.median(nats)
        return float(middle + SPREADS * np.median(np.abs(nats - middle)))


def _sample(stream: TokenStream, longest: int) -> np.ndarray:
    """Return at least ``SAMPLE`` tokens of the stream, in pieces, or all if it has no more."""
    size = max(longest, SAMPLE // PIECES)
    if len(stream) <= PIECES * size:
        return stream.read(0, len(stream))
    starts = np.linspace(0, len(stream) - size, PIECES, dtype=np.int64)
    return np.concatenate([stream.read(int(start), size) for start in starts])
