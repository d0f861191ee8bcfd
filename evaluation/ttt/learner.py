"""What test-time training updates, as the methods and the audit see it."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Learner(Protocol):
    """Weights or adapters that are updated on tokens whose scores are final."""

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Update on the last S targets of each row.

        Args:
            tokens: (N, T + 1) int32; token i + 1 is the target of token i.
            positions: (N, S) of those targets in the split; -1 for padding.
            lr_scale: factor of the learning rate.
        """
        ...

    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return nats as ``GPT.score`` does, by the updated weights or adapters.

        Adapters, which rows do not share, also take several choices of targets (K, N, S).
        """
        ...

    def tensors(self) -> list[Tensor]:
        """Return all tensors that an update changes, but for the optimizer's state."""
        ...


Watch = Callable[[Learner], Learner]


def unwatched(learner: Learner) -> Learner:
    """Return the learner itself: the `Watch` of a score that nobody audits."""
    return learner
