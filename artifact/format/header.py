"""The header of an artifact: which tensors its streams hold.

A header that is read from a file must keep the limits below, so that no damaged or hostile file can
cost more memory or time than they allow.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from reading.structured import parse_json

MAX_HEADER = 1 << 20
MAX_DECODED = 1 << 28  # all streams together: 16 times what fits the contest, uncompressed
MAX_DIMS = 8
BITS = {f"{kind}{bits}": bits for kind in ("int", "trellis") for bits in range(2, 9)}
DTYPES = dict.fromkeys(BITS, np.dtype(np.int8))
DTYPES |= {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4"), "uint16": np.dtype("<u2")}
WORD = re.compile(r"[A-Za-z0-9_.]{1,200}")


class Stream(NamedTuple):
    """Numbers that are packed together."""

    role: str
    kind: str

    def __str__(self) -> str:
        return f"{self.role} {self.kind}"

    @property
    def bits(self) -> int:
        """Of an integer kind; 0 of others."""
        return BITS.get(self.kind, 0)


@dataclass(frozen=True)
class Entry:
    """A tensor of an artifact.

    Attributes:
        name: letters, digits, dots and underscores.
        shape: of the tensor.
        dtype: of the tensor before it was stored, such as ``float32``.
        kind: how it is stored, as `artifact.stored.Stored` has it.
        role: tensors of one role and kind share a stream.
        error: root mean square error over root mean square, as it was measured.
        sha256: of its codes or values and then its scale, little-endian.

    Raises:
        ValueError: a field is invalid, or the tensor is larger than an artifact may be.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    role: str
    error: float
    sha256: str

    def __post_init__(self) -> None:
        words = (self.name, self.dtype, self.kind, self.role, self.sha256)
        if not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
            raise ValueError(f"tensor {self.name!a:.60} is not described in plain words")
        if self.kind not in DTYPES:
            raise ValueError(f"tensor {self.name} is of the unknown kind {self.kind}")
        if type(self.error) not in (int, float) or not math.isfinite(self.error):
            raise ValueError(f"tensor {self.name} has an error that is no number")
        if not self._shape_is_possible():
            raise ValueError(f"tensor {self.name} has a shape that cannot be stored")

    @property
    def is_coded(self) -> bool:
        """Whether it is stored as integers with a scale a row."""
        return self.kind in BITS

    def parts(self) -> Iterator[tuple[Stream, tuple[int, ...]]]:
        """Yield stream and shape of the values, then of the scale if there is one."""
        yield Stream(self.role, self.kind), self.shape
        if self.is_coded:
            yield Stream("steps", "fp16"), self.shape[:-1]

    def _shape_is_possible(self) -> bool:
        dims = self.shape
        return (
            2 * self.is_coded <= len(dims) <= MAX_DIMS
            and all(type(dim) is int and 0 <= dim <= MAX_DECODED for dim in dims)
            and math.prod(max(dim, 1) for dim in dims) <= MAX_DECODED
        )


@dataclass(frozen=True)
class Header:
    """The description of an artifact.

    Attributes:
        architecture: the model's configuration, as JSON holds it.
        entries: the tensors, in the order in which the streams hold them.

    Raises:
        ValueError: two entries share a name, or all together are larger than an artifact may be.
    """

    architecture: dict[str, Any]
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, dict):
            raise ValueError("its architecture is not an object")
        if len({entry.name for entry in self.entries}) != len(self.entries):
            raise ValueError("two of its tensors have the same name")
        if self._decoded_bytes() > MAX_DECODED:
            raise ValueError(f"its tensors take more than {MAX_DECODED:,} bytes")

    def streams(self) -> dict[Stream, list[tuple[int, ...]]]:
        """Return the shapes of each stream's tensors, in file order."""
        found: dict[Stream, list[tuple[int, ...]]] = {}
        for entry in self.entries:
            for stream, shape in entry.parts():
                found.setdefault(stream, []).append(shape)
        return found

    def _decoded_bytes(self) -> int:
        return sum(
            math.prod(shape) * DTYPES[stream.kind].itemsize
            for stream, shapes in self.streams().items()
            for shape in shapes
        )

    def to_json(self) -> bytes:
        """Return UTF-8 JSON. Raises ValueError if it is larger than a header may be."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        if len(text) > MAX_HEADER:
            raise ValueError(f"its header takes more than {MAX_HEADER:,} bytes")
        return text

    @classmethod
    def from_json(cls, text: bytes) -> "Header":
        """Undo `to_json`. Raises ValueError for anything else."""
        try:
            fields = parse_json(text)
            items = [item | {"shape": tuple(item["shape"])} for item in fields["entries"]]
            return cls(fields["architecture"], tuple(Entry(**item) for item in items))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("its header has the wrong form") from error
