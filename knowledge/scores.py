"""Token scores and their file: at most 732 bytes, as small as the public system's list.

A file is a header and three runs of bits. The header holds a magic, the SHA-256 of the tokenizer's
file, the vocabulary size, the number of scores, and a CRC-32 of all else. The ascending ids are in
Elias-Fano coding (Elias 1974, Fano 1971): the low bits of each as they are, the rest as gaps in
unary. It is within half a bit an id of the optimum. A score is a code of 5 bits.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import InputError
from files import sha256

MOST_SCORES = 358
MOST_BYTES = 732
MAGIC = b"MKG1"
HEADER = struct.Struct("<4s32sHHI")
SCORE_BITS = 5
TOP_CODE = 2**SCORE_BITS - 1
BUILT_IN = {"wordnet": Path(__file__).with_name("wordnet")}
"""Folders of bundled files, each for another tokenizer, by name."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # of a file, without its suffix


@dataclass(frozen=True)
class TokenScores:
    """Scores of some tokens of one tokenizer; all others' are zero.

    tokenizer: SHA-256 of its file, hexadecimal. vocab_size: V. ids: (n,) int64, ascending, n at
    most 358. scores: (n,) fp32 in [0, 1], in steps of 1/31.
    """

    tokenizer: str
    vocab_size: int
    ids: np.ndarray
    scores: np.ndarray

    def dense(self) -> np.ndarray:
        """Return the scores of all tokens, (V,) fp32."""
        values = np.zeros(self.vocab_size, np.float32)
        values[self.ids] = self.scores
        return values


def unpack(packed: bytes) -> TokenScores:
    """Undo ``knowledge.packing.pack``.

    Raises:
        ValueError: ``packed`` is not a result of it.
    """
    if len(packed) < HEADER.size or not packed.startswith(MAGIC):
        raise ValueError("not a file of token scores")
    _, digest, vocab_size, count, check = HEADER.unpack_from(packed)
    body = packed[HEADER.size :]
    if check != checksum(digest, vocab_size, count, body):
        raise ValueError("damaged: its checksum does not fit")
    low = low_bits(vocab_size, count)
    lengths = (count * low, count + (vocab_size >> low) + 1, count * SCORE_BITS)
    starts = np.cumsum([0, *(8 * -(-length // 8) for length in lengths)])
    bits = np.unpackbits(np.frombuffer(body, np.uint8))
    lows, unary, codes = (bits[at : at + n] for at, n in zip(starts, lengths, strict=False))
    if count > MOST_SCORES or len(bits) != starts[-1] or unary.sum() != count:
        raise ValueError("its parts do not fit each other")
    high = np.flatnonzero(unary) - np.arange(count)
    ids = high << low | from_bits(lows, count, low)
    if (np.diff(ids, prepend=-1, append=vocab_size) <= 0).any():
        raise ValueError("its tokens are not in order or not in the vocabulary")
    scores = from_bits(codes, count, SCORE_BITS) / TOP_CODE
    return TokenScores(digest.hex(), vocab_size, ids, scores.astype(np.float32))


def checksum(digest: bytes, vocab_size: int, count: int, body: bytes) -> int:
    """Return the CRC-32 of a file without its magic and checksum."""
    return zlib.crc32(digest + struct.pack("<HH", vocab_size, count) + body)


def low_bits(vocab_size: int, count: int) -> int:
    """Return the number of an id's low bits, which are stored as they are."""
    return max(0, (vocab_size // max(1, count)).bit_length() - 1)


def from_bits(bits: np.ndarray, count: int, width: int) -> np.ndarray:
    """Undo ``knowledge.packing.to_bits``: (count,) int64."""
    return bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width)[::-1])


def check_name(path: Path) -> None:
    """Refuse a name with other characters than a submission's file can hold."""
    if not NAME.fullmatch(path.stem):
        raise InputError(f"{path}: rename it; letters, digits, dots, dashes and _ are allowed")


def read_scores(path: Path) -> TokenScores:
    """Read a file.

    Raises:
        InputError: it is missing, of another kind, or damaged.
    """
    make = "make it with the project's python -m knowledge distil"
    try:
        with path.open("rb") as file:
            return unpack(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise InputError(f"{path}: no token scores ({error.strerror}); {make}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; {make}") from None


def scores_for(given: str, tokenizer: Path) -> np.ndarray:
    """Return scores (V,) fp32 of ``tokenizer``'s tokens, from a file or ``BUILT_IN``.

    Raises:
        InputError: there is no such file, it is damaged, made for another tokenizer, or its name
            is none for a submission, which an export would refuse after the training.
    """
    digest = sha256(tokenizer) if tokenizer.is_file() else "of tiktoken"
    paths = sorted(BUILT_IN[given].glob("*.scores")) if given in BUILT_IN else [Path(given)]
    for path in paths:
        check_name(path)
    for scores in map(read_scores, paths):
        if scores.tokenizer == digest:
            return scores.dense()
    others = ", ".join(path.stem for path in paths) if given in BUILT_IN else "another tokenizer"
    raise InputError(
        f"kg_scores {given}: made for {others}, not for {tokenizer}; make scores for "
        "that one with the project's python -m knowledge distil"
    )
