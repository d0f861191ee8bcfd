"""What enters a visit: the mix of stream and embedded input, and the U-net skip, for all visits."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.plan import Plan


class Entry(NamedTuple):
    """Factors of what enters a visit, fp32.

        mix[0] (stream + skip_weight skip) + mix[1] x0

    Attributes:
        mix: (2, C).
        skip_weight: (C,); None: no other tensor than the stream enters.
        keep: (C,), the part of mix[0] that is the skip gate's; None: no gate.
    """

    mix: Tensor
    skip_weight: Tensor | None = None
    keep: Tensor | None = None


def entries(
    visits: Plan, mixes: Sequence[Tensor], weight: Tensor | None, gate: Tensor | None
) -> list[Entry]:
    """Return the entry of each visit.

    With a gate, ``s stream + (1 - s) weight skip`` enters, s = sigmoid(gate). That is
    ``s (stream + (1 - s) / s weight skip)``, whose factors fold into the mix and the weight.
    The first decoder visit's skip is the last encoder visit's output, which is the stream itself,
    so that its weight folds into the mix too.

    Args:
        visits: of the network.
        mixes: (2, C) fp32 of each layer.
        weight: (rows, C) fp32 of the skips; None: there are none.
        gate: (rows, C) fp32 of the skips; None: the stream enters as it is.
    """
    found = [Entry(mixes[visit.layer]) for visit in visits]
    entered = [number for number, visit in enumerate(visits) if visit.skip_row is not None]
    if weight is None or not entered:
        return found
    if gate is None:
        first, *others = zip(entered, weight.unbind(), strict=False)
        of_stream, of_x0 = found[first[0]].mix.unbind()
        found[first[0]] = Entry(torch.stack((of_stream * (1 + first[1]), of_x0)))
        for number, row in others:
            found[number] = Entry(found[number].mix, row)
        return found
    # All visits together, because each operation on a vector is a launch.
    keep, of_skip = torch.sigmoid(gate[: len(entered)]), weight[: len(entered)]
    entering = (1 - keep) * of_skip
    factors = torch.cat((keep[:1] + entering[:1], keep[1:]))
    factors = torch.stack((factors, torch.ones_like(keep)), 1)
    mixed = torch.stack([found[number].mix for number in entered]) * factors
    rows = zip(entered, mixed.unbind(), (entering / keep).unbind(), keep.unbind(), strict=True)
    for number, *row in rows:
        found[number] = Entry(*row)
    found[entered[0]] = Entry(found[entered[0]].mix)
    return found
