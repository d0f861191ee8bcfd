"""The agent that switches quantisation-aware training on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from swarm.agents.base import SURE, Agent, Proposal
from swarm.telemetry import Snapshot

if TYPE_CHECKING:
    from settings import Settings


@dataclass(frozen=True)
class QatTiming(Agent):
    """Switches training with int6-rounded weights on, once.

    The switch comes when the learning rate is low, when the measured rounding error is large, or
    at the deadline if the error is unknown or above ``tolerable``.

    Attributes:
        threshold: scale of the learning rate under which QAT starts.
        earliest, deadline: fractions of the run.
        tolerable: below this int6 error the deadline does not switch QAT on. At 0.14 GPTQ lost
            0.0003 bpb if QAT waited for the low rate; a switch at 65 % cost 0.007 (docs/log.md).
        urgent: int6 error above which QAT starts without waiting for the deadline.
    """

    name: ClassVar[str] = "qat"
    levers: ClassVar[tuple[str, ...]] = ("qat",)
    reads: ClassVar[tuple[str, ...]] = ("int6_error",)

    threshold: float = 0.15
    earliest: float = 0.40
    deadline: float = 0.65
    tolerable: float = 0.15
    urgent: float = 0.25

    @classmethod
    def of(cls, settings: "Settings") -> Self | None:
        threshold = settings.late_qat_threshold
        return cls(threshold) if threshold else None

    def propose(self, state: tuple, snapshot: Snapshot) -> tuple[tuple, Sequence[Proposal]]:
        if snapshot.levers["qat"] > 0.5 or snapshot.progress < self.earliest:
            return state, ()
        error = snapshot.signals["int6_error"]
        if snapshot.lr_scale < self.threshold:
            reason = "low learning rate"
        elif error is not None and error > self.urgent:
            reason = "int6 error"
        elif snapshot.progress >= self.deadline and (error is None or error > self.tolerable):
            reason = "deadline"
        else:
            return state, ()
        return state, (Proposal(self.name, "qat", 1.0, SURE, reason),)
