"""The artifact's file format: a trained model in one checked file.

    8 bytes   magic, ``MURMURA`` and a zero byte
    4 bytes   version, 2             (all numbers are little-endian)
    4 bytes   size of the header as packed
    4 bytes   size of the header as JSON
    32 bytes  SHA-256 of all bytes before and after this hash
    header    `artifact.format.header.Header` as JSON, packed
    streams   one a role and kind: 4 bytes of packed size, then the numbers of all its tensors, one
              after the other, packed; the scales of integer kinds are a stream of their own

Integers are packed by `artifact.format.codes`, all else by `artifact.format.coding`. One stream a
role, rather than one a tensor, lets the coder learn each distribution once. Nothing in the file is
code.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from artifact.format import codes
from artifact.format.coding import from_planes, pack, planes, unpack
from artifact.format.header import DTYPES, MAX_DECODED, MAX_HEADER, Entry, Header, Stream
from artifact.stored import Stored
from errors import InputError
from files import atomic_write
from reading.regular import read_bytes

MAGIC = b"MURMURA\0"
VERSION = 2
PREFIX = struct.Struct("<8sIII")
SIZE = struct.Struct("<I")
HEADER_AT = PREFIX.size + hashlib.sha256().digest_size

Check = Callable[[Header], None]  # raises ValueError if a header is not the expected one


class TooLarge(ValueError):  # noqa: N818
    """More than an artifact can hold, or a name or shape that it cannot hold."""


class Encoded(NamedTuple):
    """An artifact in memory.

    Attributes:
        blob: the file.
        sizes: its bytes by part: ``header``, then streams.
        codes: integers in it.
    """

    blob: bytes
    sizes: dict[str, int]
    codes: int


def encode(architecture: dict[str, Any], tensors: Mapping[str, Stored]) -> Encoded:
    """Make an artifact.

    Args:
        architecture: what JSON can hold.
        tensors: by name, on any device.

    Raises:
        TooLarge: more than an artifact can hold, or a name or shape that it cannot hold.
        TypeError: a tensor's dtype is not that of its kind, or its scale does not fit.
    """
    arrays = {name: _arrays(stored) for name, stored in tensors.items()}
    try:
        entries = tuple(_entry(name, tensors[name], arrays[name]) for name in tensors)
        header = Header(architecture, entries)
        text = header.to_json()
    except ValueError as problem:
        raise TooLarge(str(problem)) from problem
    streams = _pack_streams(header, arrays)
    packed_text = pack(text)
    prefix = PREFIX.pack(MAGIC, VERSION, len(packed_text), len(text))
    body = packed_text + b"".join(streams.values())
    sizes = {str(stream): len(packed) for stream, packed in streams.items()}
    return Encoded(
        prefix + hashlib.sha256(prefix + body).digest() + body,
        {"header": HEADER_AT + len(packed_text), **sizes},
        sum(stored.values.numel() for stored in tensors.values() if stored.scale is not None),
    )


def save(path: Path, encoded: Encoded) -> None:
    """Write an artifact, whole or not at all. Raises OSError if it cannot be written."""
    with atomic_write(path) as file:
        file.write(encoded.blob)


def read(path: Path, check: Check | None = None) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Read an artifact: its architecture and its tensors, on the CPU.

    A file of more than `MAX_DECODED` bytes is not read, and none is decoded to more than that,
    whatever its header says. The peak of memory is less than 4 GiB.

    Raises:
        InputError: missing, damaged, foreign, of another version, or over the limits.
    """
    return read_with_sizes(path, check)[:2]


def read_with_sizes(
    path: Path, check: Check | None = None
) -> tuple[dict[str, Any], dict[str, Stored], dict[str, int]]:
    """Return `read`, and the bytes of each part as `Encoded` has them."""
    blob = read_bytes(path, MAX_DECODED, remedy(path))
    try:
        return decode(blob, check)
    except ValueError as problem:
        raise InputError(f"{path}: not a sound artifact: {problem}; export it again") from problem


def remedy(path: Path) -> str:
    """Return what to do about a path that is no artifact."""
    if path.is_dir():
        from runtime.run_folder import ARTIFACT  # whoever loads an artifact needs no run

        inside = path / ARTIFACT
        if inside.is_file():
            return f"give {inside}"
    return "give the path of an artifact"


def _arrays(stored: Stored) -> list[np.ndarray]:
    """Return the values, then the scale if there is one."""
    parts = [stored.values] if stored.scale is None else [stored.values, stored.scale]
    return [part.detach().cpu().contiguous().numpy() for part in parts]


def _entry(name: str, stored: Stored, arrays: list[np.ndarray]) -> Entry:
    digest = _sha256(array.tobytes() for array in arrays)
    shape, error = tuple(stored.values.shape), float(f"{stored.error:.3g}")
    entry = Entry(name, shape, stored.dtype, stored.kind, stored.role, error, digest)
    wanted = [(DTYPES[stream.kind], shape) for stream, shape in entry.parts()]
    if [(array.dtype, array.shape) for array in arrays] != wanted:
        raise TypeError(f"tensor {name}: values or scale are not what kind {stored.kind} takes")
    return entry


def _pack_streams(header: Header, arrays: Mapping[str, list[np.ndarray]]) -> dict[Stream, bytes]:
    """Return each stream with its size before it, in file order."""
    parts: dict[Stream, list[np.ndarray]] = {stream: [] for stream in header.streams()}
    for entry in header.entries:
        for (stream, _), array in zip(entry.parts(), arrays[entry.name], strict=True):
            parts[stream].append(array)
    # The libraries and NumPy release the interpreter while they work.
    with ThreadPoolExecutor() as pool:
        packed = list(pool.map(_pack_stream, parts, parts.values()))
    return {stream: SIZE.pack(len(body)) + body for stream, body in zip(parts, packed, strict=True)}


def _pack_stream(stream: Stream, arrays: Sequence[np.ndarray]) -> bytes:
    if bits := stream.bits:
        return codes.pack([array.reshape(_bank(array.shape)) for array in arrays], bits)
    return pack(planes(np.concatenate([array.reshape(-1) for array in arrays])))


def _unpack_stream(
    stream: Stream, packed: bytes, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    if bits := stream.bits:
        banks = codes.unpack(packed, [_bank(shape) for shape in shapes], bits)
        return [bank.reshape(shape) for bank, shape in zip(banks, shapes, strict=True)]
    dtype, sizes = DTYPES[stream.kind], [math.prod(shape) for shape in shapes]
    numbers = from_planes(unpack(packed, sum(sizes) * dtype.itemsize), dtype)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _bank(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (..., rows, cols) as a bank of matrices."""
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def decode(
    blob: bytes, check: Check | None = None
) -> tuple[dict[str, Any], dict[str, Stored], dict[str, int]]:
    """Undo `encode`: architecture, tensors, and bytes by part.

    Args:
        blob: an artifact's bytes.
        check: raises ValueError if the header is not the expected one; called before a stream is
            unpacked.

    Raises:
        ValueError: it is not an artifact; says what is wrong with it.
    """
    if len(blob) < HEADER_AT or not blob.startswith(MAGIC):
        raise ValueError("it does not begin as one")
    _, version, packed_size, text_size = PREFIX.unpack_from(blob)
    if version != VERSION:
        raise ValueError(f"its version is {version}, and this code reads {VERSION}")
    view = memoryview(blob)
    if _sha256([view[: PREFIX.size], view[HEADER_AT:]]) != view[PREFIX.size : HEADER_AT].hex():
        raise ValueError("its bytes do not match its SHA-256, so it is damaged or cut short")
    if text_size > MAX_HEADER:
        raise ValueError(f"its header takes more than {MAX_HEADER:,} bytes")
    body = BytesIO(blob)
    body.seek(HEADER_AT)
    header = Header.from_json(unpack(body.read(packed_size), text_size))
    if check is not None:
        check(header)
    packed = _cut(header, body)
    streams = {
        stream: iter(_unpack_stream(stream, packed[stream], shapes))
        for stream, shapes in header.streams().items()
    }
    sizes = {str(stream): SIZE.size + len(of_stream) for stream, of_stream in packed.items()}
    tensors = {entry.name: _take(entry, streams) for entry in header.entries}
    return header.architecture, tensors, {"header": HEADER_AT + packed_size, **sizes}


def _cut(header: Header, body: BytesIO) -> dict[Stream, bytes]:
    """Return the packed streams. Raises ValueError if they and the file end apart."""
    packed = {}
    for stream in header.streams():
        size = int.from_bytes(body.read(SIZE.size), "little")
        packed[stream] = body.read(size)
        if len(packed[stream]) < size:
            raise ValueError(f"its stream {stream} is cut short")
    if body.read(1):
        raise ValueError("something follows its last stream")
    return packed


def _take(entry: Entry, streams: Mapping[Stream, Iterator[np.ndarray]]) -> Stored:
    """Return the next tensor of the streams, checked against its hash."""
    arrays = [next(streams[stream]) for stream, _ in entry.parts()]
    if _sha256(array.tobytes() for array in arrays) != entry.sha256:
        raise ValueError(f"tensor {entry.name} does not match its SHA-256")
    values, *scales = map(torch.from_numpy, arrays)
    scale = scales[0] if scales else None
    return Stored(entry.kind, values, scale, entry.dtype, entry.role, entry.error)


def _sha256(chunks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
