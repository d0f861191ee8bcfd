"""Two lanes of the residual stream, and what attention and the MLP add to both."""

from typing import Protocol

from torch import Tensor


class Lanes(Protocol):
    """The end of a visit on two lanes (parameter-golf PR #1529)."""

    def __call__(
        self,
        first: Tensor,
        second: Tensor,
        attention: Tensor,
        mlp: Tensor,
        keep: Tensor,
        mix: Tensor,
        *,
        skip: Tensor | None = None,
        skip_weight: Tensor | None = None,
        first_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return both lanes with both branches added.

            first'  = keep[0] * first_weight * (first + skip_weight * skip)
                      + mix[0, 0] * attention + mix[1, 0] * mlp
            second' = keep[1] * second + mix[0, 1] * attention + mix[1, 1] * mlp

        Args:
            first: (B, T, C), the lane that attention read.
            second: (B, T, C), the lane that the MLP read.
            attention: (B, T, C), attention's output after its projection.
            mlp: (B, T, C), the MLP's output.
            keep: (2,) fp32 factors of the lanes.
            mix: (2, 2) fp32 factors; row 0 is attention's, column 0 the first lane's.
            skip: (B, T, C), a U-net skip that enters the first lane, with skip_weight (C,) fp32.
            first_weight: (C,) fp32, of a skip gate; None: one.

        Returns:
            (first', second'), new tensors (B, T, C) in the lanes' dtype.
        """
        ...
