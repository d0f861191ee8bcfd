"""A tensor between its quantisation and its coding: codes and scales, or plain values."""

from dataclasses import dataclass

from torch import Tensor

from artifact.grid import dequantise


@dataclass(frozen=True)
class Stored:
    """A tensor as an artifact holds it.

    Attributes:
        kind: ``int2`` ... ``int8``, ``fp16``, ``fp32`` or ``uint16``.
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

    def restore(self) -> Tensor:
        """Return the tensor as fp32."""
        if self.scale is None:
            return self.values.float()
        return dequantise(self.values, self.scale)
