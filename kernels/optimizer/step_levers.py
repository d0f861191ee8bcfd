"""What steers an optimizer's step from outside, read on the device by its kernels."""

from typing import NamedTuple

from torch import Tensor


class StepLevers(NamedTuple):
    """Each () fp32 on the device."""

    lr_scale: Tensor
    """Factor on every learning rate."""
    momentum: Tensor
    """Of Muon, in [0, 1)."""
    decay_factor: Tensor
    """Factor on every weight decay."""
    clip: Tensor
    """Most that the gradients' global norm may be; 0 or less: no clip."""
    skip_norm: Tensor
    """A step whose gradients' global norm is not at most this, or not finite, changes nothing."""
    averaging_decay: Tensor
    """Of the exponential averages, a step."""
