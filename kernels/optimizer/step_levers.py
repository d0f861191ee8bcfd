"""The levers of an optimizer's step, which its kernels read on the device."""

from typing import NamedTuple

from torch import Tensor


class StepLevers(NamedTuple):
    """Each () fp32 on the device."""

    lr_scale: Tensor
    """Factor on every learning rate."""
    momentum: Tensor
    """Muon's momentum, in [0, 1)."""
    decay_factor: Tensor
    """Factor on every weight decay."""
    clip: Tensor
    """Bound of the gradients' global norm; 0 or less: no clip."""
    skip_norm: Tensor
    """A step changes nothing if its gradients' global norm is above this, or not finite."""
    averaging_decay: Tensor
    """Decay of the exponential averages in a step."""
    lean: Tensor | None = None
    """Share of its way from its average that a weight goes further; None: no weight leans."""
