"""From scores of tokens to their file, which ``knowledge.scores`` reads."""

from pathlib import Path

import numpy as np

from files import atomic_write
from knowledge.scores import (
    HEADER,
    MAGIC,
    MOST_SCORES,
    SCORE_BITS,
    TOP_CODE,
    TokenScores,
    checksum,
    low_bits,
)


def best(tokenizer: str, values: np.ndarray) -> TokenScores:
    """Return the 358 highest of ``values`` (V,) in [0, 1], quantised; NaN is no score."""
    order = np.argsort(-values, kind="stable")[:MOST_SCORES]
    ids = np.sort(order[~np.isnan(values[order])])
    codes = np.rint(values[ids] * TOP_CODE)
    return TokenScores(tokenizer, len(values), ids, (codes / TOP_CODE).astype(np.float32))


def pack(scores: TokenScores) -> bytes:
    """Return the bytes of a file."""
    low = low_bits(scores.vocab_size, len(scores.ids))
    high = scores.ids >> low
    unary = np.zeros(len(high) + (scores.vocab_size >> low) + 1, np.uint8)
    unary[high + np.arange(len(high))] = 1
    codes = np.rint(scores.scores * TOP_CODE).astype(np.int64)
    body = b"".join(
        np.packbits(bits).tobytes()
        for bits in (to_bits(scores.ids, low), unary, to_bits(codes, SCORE_BITS))
    )
    digest, sizes = bytes.fromhex(scores.tokenizer), (scores.vocab_size, len(scores.ids))
    return HEADER.pack(MAGIC, digest, *sizes, checksum(digest, *sizes, body)) + body


def to_bits(values: np.ndarray, width: int) -> np.ndarray:
    """Return (n * width,) uint8: the low bits of ``values`` (n,), highest first."""
    return (values[:, None] >> np.arange(width)[::-1] & 1).astype(np.uint8).ravel()


def write_scores(path: Path, scores: TokenScores) -> None:
    """Write a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(pack(scores))
