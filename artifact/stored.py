"""A tensor between its quantisation and its coding: codes and scales, or plain values."""

from dataclasses import dataclass

from torch import Tensor

from artifact.grid import dequantise
from artifact.trellis import levels

TRELLIS = "trellis"


@dataclass(frozen=True)
class Stored:
    """A tensor as an artifact holds it.

    Attributes:
        kind: ``int2`` ... ``int8``, ``trellis2`` ... ``trellis8``, ``fp16``, ``fp32`` or
            ``uint16``.
        values: int8 codes (..., rows, cols), or values of the kind in any shape.
        scale: fp16 (..., rows), with integer kinds only.
        dtype: the tensor's own dtype before it was stored.
        role: tensors of one role and kind are packed together.
        error: of the stored values: root mean square error over root mean square.
    """

    kind: str
    values: Tensor
    scale: Tensor | None = None
    dtype: str = "float32"
    role: str = "small"
    error: float = 0.0

    @property
    def is_trellis(self) -> bool:
        """Whether the codes are those of `artifact.trellis`."""
        return self.kind.startswith(TRELLIS)

    def restore(self, order: Tensor | None = None) -> Tensor:
        """Return the tensor as fp32; ``order`` is that of `artifact.trellis.levels`."""
        if self.scale is None:
            return self.values.float()
        values = levels(self.values, order) if self.is_trellis else self.values
        return dequantise(values, self.scale)
