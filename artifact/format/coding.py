"""Compress bytes by the best of three libraries, and decompress them.

`planes` separates the bytes of numbers first, because a float's high byte is predictable and its
low byte is not.
"""

import lzma
from collections.abc import Callable
from typing import NamedTuple

import brotli
import numpy as np
import zstandard

# No literal contexts, the smallest dictionary and the simplest search, because the byte planes of
# weights hold no text, and the encoder underestimates the cost of far matches in noise.
LZMA = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}
LZMA |= {"dict_size": 4096, "mf": lzma.MF_HC3, "depth": 1}


class Library(NamedTuple):
    """``pack(raw)``, and ``unpack(packed, size)`` which makes little more than ``size`` bytes."""

    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes, int], bytes]


def pack(raw: bytes) -> bytes:
    """Pack ``raw`` by the library that makes it shortest, after a byte that names it."""
    packed = [bytes([place]) + library.pack(raw) for place, library in enumerate(LIBRARIES)]
    return min(packed, key=len)


def unpack(packed: bytes, size: int) -> bytes:
    """Undo `pack`; never makes much more than ``size`` bytes, whatever ``packed`` holds.

    Raises:
        ValueError: ``packed`` is not a stream of exactly ``size`` bytes.
    """
    if not packed or packed[0] >= len(LIBRARIES):
        raise ValueError("a stream is of no known coding")
    try:
        raw = LIBRARIES[packed[0]].unpack(packed[1:], size)
    except (lzma.LZMAError, zstandard.ZstdError, brotli.error) as error:
        raise ValueError(f"a stream does not decompress: {error}") from error
    if len(raw) != size:
        raise ValueError(f"a stream is not the {size:,} bytes that are expected")
    return raw


def planes(numbers: np.ndarray) -> bytes:
    """Return all first bytes of little-endian ``numbers``, then all second bytes, and so on."""
    octets = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
    return octets.reshape(-1, numbers.itemsize).T.tobytes()


def from_planes(raw: bytes, dtype: np.dtype) -> np.ndarray:
    """Undo `planes`; (n,) numbers. ``raw`` must hold whole ones."""
    octets = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1).T
    return octets.copy(order="C").reshape(-1).view(dtype)


def _stored(raw: bytes, size: int) -> bytes:
    return raw[: size + 1]


def _pack_lzma(raw: bytes) -> bytes:
    return lzma.compress(raw, format=lzma.FORMAT_RAW, filters=[LZMA])


def _unpack_lzma(packed: bytes, size: int) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=[LZMA])
    raw = decoder.decompress(packed, max_length=size + 1)
    if not decoder.eof or decoder.unused_data:
        raise ValueError(f"a stream does not end after the {size:,} bytes that are expected")
    return raw


def _pack_zstandard(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(raw)


def _unpack_zstandard(packed: bytes, size: int) -> bytes:
    if zstandard.frame_content_size(packed) != size:
        raise ValueError(f"a stream is not the {size:,} bytes that are expected")
    return zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)


def _pack_brotli(raw: bytes) -> bytes:
    return brotli.compress(raw, quality=11, lgwin=24)


def _unpack_brotli(packed: bytes, size: int) -> bytes:
    decoder, raw = brotli.Decompressor(), []
    left = size + 1
    chunk = decoder.process(packed, output_buffer_limit=left)
    while chunk and (left := left - len(chunk)) > 0:
        raw.append(chunk)
        chunk = decoder.process(b"", output_buffer_limit=left)
    raw.append(chunk)
    if not decoder.is_finished():
        raise ValueError(f"a stream does not end after the {size:,} bytes that are expected")
    return b"".join(raw)


# A file names them by their indices here.
LIBRARIES = (
    Library(bytes, _stored),
    Library(_pack_lzma, _unpack_lzma),
    Library(_pack_zstandard, _unpack_zstandard),
    Library(_pack_brotli, _unpack_brotli),
)
