"""RMSNorm, alone and after the mix of streams at a layer's entry."""

from typing import Any, Protocol

from torch import Tensor


class Norm(Protocol):
    """RMSNorm of the residual stream."""

    def __call__(
        self, x: Tensor, *, scale: float, eps: float, fp8: bool = False
    ) -> tuple[Tensor, Any]:
        """Return x and its RMSNorm.

            normed = scale * x / sqrt(mean(x^2) + eps)

        Add to the returned x instead of the argument, so that both gradients of x reach this
        backward pass and are summed there.

        Args:
            x: (B, T, C). Not a leaf that requires a gradient, because a kernel may mark it as
                modified in place.
            scale: factor of the normed output, 1/sqrt(layer + 1) if LN scale is on; not zero.
            eps: added to the mean square.
            fp8: return normed as an ``Operand`` in fp8, rounded from fp32, with itself as source.

        Returns:
            (x, normed), each (B, T, C) in x's dtype.
        """
        ...


class MixNorm(Protocol):
    """The entry of a layer."""

    def __call__(
        self,
        stream: Tensor,
        x0: Tensor,
        mix: Tensor,
        *,
        scale: float,
        eps: float,
        skip: Tensor | None = None,
        skip_weight: Tensor | None = None,
        gate_weight: Tensor | None = None,
        normed_only: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Apply U-net skip, mix with the input embedding, and RMSNorm.

            mixed  = mix[0] * (stream + skip_weight * skip) + mix[1] * x0
            normed = scale * mixed / sqrt(mean(mixed^2) + eps)
            gate   = normed[..., :W] @ gate_weight.T

        The parts are one operation because they read the same tensors: a kernel reads each input
        once and writes each output once. The operation also returns stream and x0. Later readers
        must use these, so that their gradients are summed in this backward pass.

        Args:
            stream: (B, T, C), the previous layer's output; not modified.
            x0: (B, T, C) the embedded input; may be the stream itself.
            mix: (2, C) fp32.
            scale: factor of the normed output.
            eps: added to the mean square.
            skip: (B, T, C) an encoder layer's output, with skip_weight (C,) fp32.
            gate_weight: (H, W) fp32; None: no gate.
            normed_only: nobody reads mixed, so that a kernel may return None for it.

        Returns:
            (mixed, normed, stream, x0, gate) in the stream's dtype: four (B, T, C), of which mixed
            and normed are new tensors, and logits (B, T, H) of the gate, or None.
        """
        ...
