"""Messages between the judge and the entrant's process: JSON and arrays, nothing that runs.

Imports nothing of the project, because both processes load it.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

HEADER_BYTES = 1 << 24
ARRAY_BYTES = 1 << 33
TYPES = ("bool", "int16", "int32", "int64", "uint16", "float32", "float64")

Arrays = dict[str, np.ndarray]


def send(stream: BinaryIO, words: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one message."""
    forms = [[name, str(each.dtype), list(each.shape)] for name, each in arrays.items()]
    header = json.dumps({"words": dict(words), "arrays": forms}).encode()
    stream.write(struct.pack("<q", len(header)) + header)
    for each in arrays.values():
        stream.write(np.ascontiguousarray(each).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], Arrays]:
    """Read one message.

    Raises:
        ValueError: it ends early, is too large, or is no message.
    """
    (size,) = struct.unpack("<q", _read(stream, 8))
    if not 0 < size <= HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes")
    header = json.loads(_read(stream, size))
    words, arrays = dict(header["words"]), {}
    for name, kind, shape in header["arrays"]:
        if kind not in TYPES or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(f"an array of {kind} and {shape}")
        count = math.prod(shape) * np.dtype(kind).itemsize
        if count > ARRAY_BYTES:
            raise ValueError(f"an array of {count} bytes")
        arrays[name] = np.frombuffer(_read(stream, count), kind).reshape(shape)
    return words, arrays


def _read(stream: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    whole = memoryview(data)
    done = 0
    while done < count:
        read = stream.readinto(whole[done:])  # pyright: ignore[reportAttributeAccessIssue]
        if not read:
            raise ValueError("it ended")
        done += read
    return data
