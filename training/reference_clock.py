"""The reference clock: a run's time is what its work takes on a named device, from a table.

So runs on different cards take equal steps, and can be compared in pairs. `python -m bench clock`
measures the table.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from errors import InputError
from reading.structured import Form, read_json
from settings import Settings
from settings.variants import Variant, reachable
from training.budget import Budget
from training.pace import Pace, Start

REMEDY = "measure one with these settings: python -m bench clock"
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
# Work besides steps: a copy of weights and moments, the collection of Hessians, a comparison of two
# weights by `training.choosing`, a probe of the averaged weights.
WORK = ("keep", "calibration", "choosing", "probe")
# Settings that this work's time depends on, besides the network.
WORKED_WITH = ("calibration_tokens", "eval_seq_len", "quant_by_loss", "readout")
ANY = {"bos_id", "near_window"}  # fields of a network that change no time, or are a step's own


class Reserved(Protocol):
    """What is used of `artifact.quantisation.calibration.Calibration`."""

    micro_batches: int
    reserved: float


class Compared(Protocol):
    """What is used of `training.choosing.Chooser`."""

    reserved: float

    def compares(self, step: int) -> bool:
        """Return whether weights are compared after ``step`` steps."""
        ...


class Step(Form):
    """What a step of a variant takes."""

    variant: dict[str, Any]
    milliseconds: Annotated[float, Field(gt=0, le=1e9)]


class Table(Form):
    """What a network's work takes on a device.

    Attributes:
        device: its name.
        ranks: processes, each with such a device.
        network: fields of its architecture.
        steps: of each variant.
        work: milliseconds of each of ``WORK``.
        worked_with: values of the settings ``WORKED_WITH``, by name.
    """

    device: str
    ranks: int
    network: dict[str, Any]
    steps: list[Step]
    work: dict[str, Milliseconds]
    worked_with: dict[str, Any]


class ReferenceClock:
    """Reads the table of a run, and makes its budget and pace.

    Attributes:
        steps: seconds of a step, by variant.
        work: seconds of other work, by name.

    Args:
        path: of the table.
        settings: of the run, whose vocabulary is known.
        ranks: of the run.

    Raises:
        InputError: it is no table, or of another network, number of ranks, variant or setting.
    """

    def __init__(self, path: Path, settings: Settings, ranks: int) -> None:
        table = read_json(path, Table, REMEDY)
        if table.ranks != ranks:
            raise InputError(
                f"{path} is of {table.ranks} ranks, and this run has {ranks}; {REMEDY}"
            )
        here = {**network_of(settings), **worked_with(settings)}
        there = {**table.network, **table.worked_with}
        for name in sorted(here.keys() - ANY):
            if there.get(name) != here[name]:
                found = str(there.get(name))[:40]
                raise InputError(f"{path}: {name} is {found} there and {here[name]} here; {REMEDY}")
        if missing := sorted(set(WORK) - table.work.keys()):
            raise InputError(f"{path} has no milliseconds of {missing[0]}; {REMEDY}")
        steps = [(step.variant, step.milliseconds / 1000) for step in table.steps]
        self.steps: dict[Variant, float] = {}
        for variant in reachable(settings):
            for fields, seconds in steps:
                if fields == asdict(variant):
                    self.steps[variant] = seconds
            if variant not in self.steps:
                raise InputError(f"{path} has no step of {asdict(variant)}; {REMEDY}")
        self.work = {name: each / 1000 for name, each in table.work.items()}

    def seconds(self, work: Variant | str) -> float:
        """Return the seconds of a step or of other work."""
        return self.work[work] if isinstance(work, str) else self.steps[work]

    def reserve(self, calibration: Reserved, chooser: Compared, steps: int) -> None:
        """Set what is reserved for the end of a run.

        Args:
            calibration: of the Hessians.
            chooser: of the weights to export.
            steps: that the run will take.
        """
        calibration.reserved = self.work["calibration"] if calibration.micro_batches else 0.0
        chooser.reserved = self.work["choosing"] if chooser.compares(steps) else 0.0

    def budget(self, *limits: float) -> "ReferenceBudget":
        """Return the budget of a run; arguments as ``Budget`` takes them."""
        return ReferenceBudget(self, *limits)


class ReferencePace(Pace):
    """A pace that is known before the first step, and never changes.

    Args:
        clock: whose seconds it has.
        start: of the steps.
    """

    def __init__(self, clock: ReferenceClock, start: Start) -> None:
        super().__init__(start)
        self._clock = clock

    def of(self, variant: Variant) -> float:
        """Return the reference seconds of a step."""
        return self._clock.seconds(variant)


class ReferenceBudget(Budget):
    """A budget of reference seconds: it counts the work that was done, and no clock runs."""

    def __init__(self, clock: ReferenceClock, *budget: Any) -> None:
        super().__init__(*budget)
        self._clock = clock

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do nothing: work that is not training is never counted."""
        yield

    def spend(self, work: Variant | str) -> None:
        """Count a step or other work that is done."""
        self._spent += self._clock.seconds(work)

    def takes(self, work: str, measured: float) -> float:
        """Return the table's seconds of other work."""
        return self._clock.seconds(work)

    def landed(self, elapsed: float) -> float:
        """Return the seconds of the steps so far, all of which are finished."""
        return self.elapsed()

    def pace(self, start: Start, settings: Settings) -> Pace:
        """Return the pace of a run's steps."""
        return ReferencePace(self._clock, start)


def network_of(settings: Settings) -> Mapping[str, Any]:
    """Return the fields of a network, as JSON has them; near layers if a step has their window."""
    fields = settings.architecture().model_dump(mode="json")
    if not any(variant.near_window for variant in reachable(settings)):
        del fields["near_layers"]
    return fields


def worked_with(settings: Settings) -> dict[str, Any]:
    """Return the settings that the time of ``WORK`` depends on, by name."""
    return {name: getattr(settings, name) for name in WORKED_WITH}
