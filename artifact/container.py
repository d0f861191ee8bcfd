"""The artifact's file format: everything that a trained model is, in one checked file.

    8 bytes   magic, ``MURMURA`` and a zero byte
    4 bytes   version, 1             (all numbers are little-endian)
    4 bytes   size of the header as packed
    4 bytes   size of the header as JSON
    32 bytes  SHA-256 of all bytes before and after this hash
    header    `artifact.header.Header` as JSON, packed
    streams   one a kind: 4 bytes of packed size, then the numbers of all tensors of that kind, one
              tensor after the other, packed; the scales of integer kinds are in ``fp16``

Packing is `artifact.coding`. One stream a kind, rather than one a tensor, lets the coder learn each
distribution once. Nothing in the file is code.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artifact.coding import pack, unpack
from artifact.header import DTYPES, MAX_DECODED, MAX_HEADER, Entry, Header
from errors import InputError
from files import atomic_write

MAGIC = b"MURMURA\0"
VERSION = 1
PREFIX = struct.Struct("<8sIII")
SIZE = struct.Struct("<I")
HEADER_AT = PREFIX.size + hashlib.sha256().digest_size


@dataclass(frozen=True)
class Stored:
    """A tensor as the file holds it.

    Attributes:
        kind: ``int2`` ... ``int8``, ``fp16`` or ``fp32``.
        values: int8 codes (..., rows, cols), or fp16 or fp32 values of any shape.
        scale: fp16 (..., rows), with integer kinds only.
        dtype: the tensor's own dtype before it was stored.
    """

    kind: str
    values: Tensor
    scale: Tensor | None = None
    dtype: str = "float32"


def write(
    path: Path, architecture: dict[str, Any], tensors: Mapping[str, Stored]
) -> dict[str, int]:
    """Write an artifact, whole or not at all; returns its bytes by part: ``header``, then kinds.

    Args:
        path: the file to make or replace.
        architecture: what JSON can hold.
        tensors: by name, on any device.

    Raises:
        InputError: more than an artifact can hold, or a name or shape it has no place for.
        TypeError: a tensor's dtype is not that of its kind, or its scale does not fit.
        OSError: the file cannot be written.
    """
    arrays = {name: _arrays(stored) for name, stored in tensors.items()}
    try:
        entries = tuple(_entry(name, tensors[name], arrays[name]) for name in tensors)
        header = Header(architecture, entries)
        text = header.to_json()
    except ValueError as problem:
        raise InputError(f"{path}: cannot be written: {problem}; use a smaller model") from problem
    streams = _pack_streams(header, arrays)
    packed_text = pack(text, "text")
    prefix = PREFIX.pack(MAGIC, VERSION, len(packed_text), len(text))
    body = packed_text + b"".join(streams.values())
    with atomic_write(path) as file:
        file.write(prefix + hashlib.sha256(prefix + body).digest() + body)
    sizes = {kind: len(stream) for kind, stream in streams.items()}
    return {"header": HEADER_AT + len(packed_text), **sizes}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Read an artifact: its architecture and its tensors, on the CPU.

    Whatever a file says, one of more than `MAX_DECODED` bytes is not read, and none is decoded to
    more than that; the peak, copies in between included, is under 4 GiB.

    Raises:
        InputError: missing, damaged, foreign, of another version, or over the limits.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the path of an artifact")
        if path.stat().st_size > MAX_DECODED:
            raise InputError(f"{path}: too large to be an artifact; give the path of one")
        blob = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    try:
        return _decode(blob)
    except ValueError as problem:
        raise InputError(f"{path}: not a sound artifact: {problem}; export it again") from problem


def _arrays(stored: Stored) -> list[np.ndarray]:
    """The values, then the scale if there is one."""
    parts = [stored.values] if stored.scale is None else [stored.values, stored.scale]
    return [part.detach().cpu().contiguous().numpy() for part in parts]


def _entry(name: str, stored: Stored, arrays: list[np.ndarray]) -> Entry:
    digest = _sha256(array.tobytes() for array in arrays)
    entry = Entry(name, tuple(stored.values.shape), stored.dtype, stored.kind, digest)
    wanted = [(DTYPES[kind], shape) for kind, shape in entry.parts()]
    if [(array.dtype, array.shape) for array in arrays] != wanted:
        raise TypeError(f"tensor {name}: values or scale are not what kind {stored.kind} takes")
    return entry


def _pack_streams(header: Header, arrays: Mapping[str, list[np.ndarray]]) -> dict[str, bytes]:
    """Each stream with its size before it, in file order."""
    raw: dict[str, list[bytes]] = {kind: [] for kind in header.stream_sizes()}
    for entry in header.entries:
        for (kind, _), array in zip(entry.parts(), arrays[entry.name], strict=True):
            raw[kind].append(array.tobytes())
    packed = {kind: pack(b"".join(chunks), kind) for kind, chunks in raw.items()}
    return {kind: SIZE.pack(len(stream)) + stream for kind, stream in packed.items()}


def _decode(blob: bytes) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Take a file apart. Raises ValueError, saying what is wrong with it."""
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
    header = Header.from_json(unpack(body.read(packed_size), "text", text_size))
    streams = _unpack_streams(header, body)
    return header.architecture, {entry.name: _take(entry, streams) for entry in header.entries}


def _unpack_streams(header: Header, body: BytesIO) -> dict[str, BytesIO]:
    streams = {}
    for kind, size in header.stream_sizes().items():
        packed_size = int.from_bytes(body.read(SIZE.size), "little")
        streams[kind] = BytesIO(unpack(body.read(packed_size), kind, size))
    if body.read(1):
        raise ValueError("something follows its last stream")
    return streams


def _take(entry: Entry, streams: Mapping[str, BytesIO]) -> Stored:
    """The next tensor of the streams, checked against its hash."""
    arrays = []
    for kind, shape in entry.parts():
        array = np.empty(shape, DTYPES[kind])
        streams[kind].readinto(array.reshape(-1).data.cast("B"))
        arrays.append(array)
    if _sha256(array.tobytes() for array in arrays) != entry.sha256:
        raise ValueError(f"tensor {entry.name} does not match its SHA-256")
    values, *scales = map(torch.from_numpy, arrays)
    return Stored(entry.kind, values, scales[0] if scales else None, entry.dtype)


def _sha256(chunks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
