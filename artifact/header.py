"""The header of an artifact: which tensors its streams hold.

A header read from a file is believed only within the limits below, so that no claim in it can cost
more memory or time than they allow.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_HEADER = 1 << 20
MAX_DECODED = 1 << 29  # all streams together: 32 times what fits the contest, uncompressed
MAX_DIMS = 8
DTYPES = {f"int{bits}": np.dtype(np.int8) for bits in range(2, 9)}
DTYPES |= {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
WORD = re.compile(r"[A-Za-z0-9_.]{1,200}")


@dataclass(frozen=True)
class Entry:
    """A tensor of an artifact.

    Attributes:
        name: letters, digits, dots and underscores.
        shape: of the tensor.
        dtype: of the tensor before it was stored, such as ``float32``.
        kind: how it is stored: ``int2`` ... ``int8``, ``fp16`` or ``fp32``.
        sha256: of its codes or values and then its scale, little-endian.

    Raises:
        ValueError: one of these is not so, or the tensor is larger than an artifact may be.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    sha256: str

    def __post_init__(self) -> None:
        words = (self.name, self.dtype, self.kind, self.sha256)
        if not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
            raise ValueError(f"tensor {self.name!a:.60} is not described in plain words")
        if self.kind not in DTYPES:
            raise ValueError(f"tensor {self.name} is of the unknown kind {self.kind}")
        if not self._shape_is_possible():
            raise ValueError(f"tensor {self.name} has a shape that cannot be stored")

    @property
    def is_coded(self) -> bool:
        """Whether it is stored as integers with a scale a row."""
        return self.kind.startswith("int")

    def parts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The stream and shape of its values, then of its scale if it has one."""
        yield self.kind, self.shape
        if self.is_coded:
            yield "fp16", self.shape[:-1]

    def _shape_is_possible(self) -> bool:
        dims = self.shape
        return (
            2 * self.is_coded <= len(dims) <= MAX_DIMS
            and all(type(dim) is int and 0 <= dim <= MAX_DECODED for dim in dims)
            and math.prod(max(dim, 1) for dim in dims) <= MAX_DECODED
        )


@dataclass(frozen=True)
class Header:
    """What an artifact says of itself.

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
        if sum(self.stream_sizes().values()) > MAX_DECODED:
            raise ValueError(f"its tensors take more than {MAX_DECODED:,} bytes")

    def stream_sizes(self) -> dict[str, int]:
        """Uncompressed bytes of each stream by kind, in file order."""
        sizes: dict[str, int] = {}
        for entry in self.entries:
            for kind, shape in entry.parts():
                sizes[kind] = sizes.get(kind, 0) + math.prod(shape) * DTYPES[kind].itemsize
        return sizes

    def to_json(self) -> bytes:
        """UTF-8 JSON. Raises ValueError if it is larger than a header may be."""
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        if len(text) > MAX_HEADER:
            raise ValueError(f"its header takes more than {MAX_HEADER:,} bytes")
        return text

    @classmethod
    def from_json(cls, text: bytes) -> "Header":
        """Undo `to_json`. Raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            items = [item | {"shape": tuple(item["shape"])} for item in fields["entries"]]
            return cls(fields["architecture"], tuple(Entry(**item) for item in items))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("its header has the wrong form") from error
