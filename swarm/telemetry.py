"""What agents see: the numbers of the steps since the last cycle, summed up on the host.

A signal is one row of ``SIGNALS`` and, unless ``Telemetry`` derives it from loss and gradient norm,
the code that measures it in each step: ``training.measures`` on the device or
``training.metrics`` on the host. An agent names the signals that it reads; the others are neither
measured nor logged.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Any, NamedTuple

from swarm.levers import LeverValues

Value = float | list[float] | None
"""Of a signal: a number, several numbers, or None: not measured yet."""
Numbers = Mapping[str, Value]


class Signal(NamedTuple):
    """One row of the table.

    name: unique, and no field of ``Snapshot``.
    size: how many numbers a step has, or the name of a count that is known at the start of a run:
        "layers", "banks" or "options". 1: a number; otherwise a list.
    window: how the steps of a window are summed up, one of ``WINDOWS``. None: ``Telemetry`` derives
        it from the loss and the gradient norm, which every step has. ``HELD``: no step measures it;
        the training loop notes it between steps, and the value holds until the next one.
    """

    name: str
    size: int | str = 1
    window: str | None = "mean"


HELD = "held"

SIGNALS: tuple[Signal, ...] = (
    # Mean nats over the window.
    Signal("loss", window=None),
    # Change of ``loss`` since the window before, nats a step.
    Signal("velocity", window=None),
    # Standard error of ``loss``, nats.
    Signal("noise", window=None),
    # ``loss`` of the best window since QAT was last switched, this one included.
    Signal("lowest", window=None),
    # Before the clip, mean over the window.
    Signal("gradient_norm", window=None),
    # Before the clip, largest of the window.
    Signal("gradient_peak", window=None),
    # Norm of the weights' int6 rounding error over the weights' norm.
    Signal("int6_error", window="last"),
    # Norm of each bank's update over the norm of its weights, largest of the window.
    Signal("update_ratios", size="banks", window="max"),
    # Of each layer's gradient, before the clip.
    Signal("layer_gradient_norms", size="layers"),
    # Cosine of the banks' gradient, before the clip, and their momentum before the step.
    Signal("momentum_cosine"),
    # Of the banks' gradient, in batches: squared noise over squared signal, those of all steps. The
    # signal is what the momentum predicts, so oscillation counts as noise.
    Signal("noise_scale", size=2, window="ratio"),
    # Standard deviation of the training windows' mean nats in a batch.
    Signal("window_spread"),
    # Of the averaged weights on held-out windows of the training split: mean nats a token, its
    # standard error over windows, the steps done, and the same of the change since the probe
    # before, whose windows are the same.
    Signal("bar", window=HELD),
    Signal("bar_error", window=HELD),
    Signal("bar_step", window=HELD),
    Signal("bar_change", window=HELD),
    Signal("bar_change_error", window=HELD),
    # Muon's by the schedule.
    Signal("momentum", window=HELD),
    # Milliseconds of a step of the variant in force, then with each option of each choice lever, in
    # the order of ``CHOICES`` and of the settings.
    Signal("step_ms", size="options", window=HELD),
)


class Snapshot(NamedTuple):
    """A run at one cycle, the same on every rank.

    Every number is finite, even if the run's are not. The window is the steps whose numbers arrived
    since the cycle before.
    """

    step: int
    progress: float
    """Fraction of the wallclock, or of the iterations if they end the run first."""
    lr_scale: float
    """Scale of the learning rates by the warm-down, before its floor, in [0, 1]."""
    nonfinite: int
    """Steps of the window whose loss or gradient was not finite."""
    arrived: int
    """Steps of the window, the nonfinite ones included."""
    kept: int | None
    """Steps that were done at the last copy of the weights; None: there is no copy."""
    levers: LeverValues
    """Values in force of the levers that agents may change."""
    signals: Mapping[str, Any]
    """The signals that the agents read, by name."""


MOST_RATIO = 1000.0
WINDOWS: dict[str, Callable[[float, float], float]] = {
    "mean": add,  # divided by the number of steps at the end
    "ratio": add,  # first of two sums over the second, in [0, ``MOST_RATIO``], at the end
    "max": max,
    "last": lambda _, value: value,
}
"""By name, what makes one number of two steps' numbers."""


class Window:
    """The numbers of one signal in the current window; one that is not finite is left out."""

    __slots__ = ("count", "mean", "merge", "one", "ratio", "total")

    def __init__(self, signal: Signal) -> None:
        assert signal.window is not None
        self.merge, self.mean = WINDOWS[signal.window], signal.window == "mean"
        self.one, self.ratio = signal.size == 1, signal.window == "ratio"
        self.count = 0
        self.total: Any = None

    def add(self, value: Any) -> None:
        """Add the number, or the numbers, of a step."""
        if not (math.isfinite(value) if self.one else all(map(math.isfinite, value))):
            return
        if not self.count:
            self.total = value
        elif self.one:
            self.total = self.merge(self.total, value)
        else:
            self.total = list(map(self.merge, self.total, value))
        self.count += 1

    def close(self) -> Any:
        """Return the value of the current window, which has a number, and begin the next one."""
        total, count, self.count = self.total, self.count, 0
        if self.ratio:
            over, under = total
            return over / max(under, over / MOST_RATIO) if over > 0 else 0.0
        if not self.mean:
            return total
        return total / count if self.one else [each / count for each in total]


# Slots of ``Telemetry`` that a checkpoint holds.
OWN = ("arrived", "finite", "loss", "lowest", "norm", "norms", "off", "peak", "qat", "squares")
# The same where a checkpoint holds a list; "error" is the value of ``int6_error``.
LISTED = ("arrived", "error", *OWN[1:])


class Telemetry:
    """Sums of the current window. ``add`` and ``snapshot`` take one or two microseconds.

    A step that is not finite is counted and enters no mean. A window without a finite step, or
    without a number of a signal, has the value of the last window that had one.

    Args:
        reads: names of the signals that snapshots have.

    Raises:
        KeyError: there is no such signal.
    """

    __slots__ = (*OWN, "_unread", "_values", "_windows")

    def __init__(self, reads: Iterable[str]) -> None:
        reads, table = set(reads), {signal.name: signal for signal in SIGNALS}
        if unknown := sorted(reads - table.keys()):
            raise KeyError(f"no signal {unknown[0]!r}; there are: {', '.join(table)}")
        derived = [signal.name for signal in SIGNALS if signal.window is None]
        self._unread = [name for name in derived if name not in reads]
        self._windows = {
            name: Window(signal)
            for name, signal in table.items()
            if name in reads and signal.window in WINDOWS
        }
        held = [signal.name for signal in SIGNALS if signal.window == HELD]
        self._values: dict[str, Any] = dict.fromkeys(
            (*self._windows, *(name for name in held if name in reads))
        )
        self.loss = self.lowest = self.norm = 0.0
        self.qat: float | None = None  # at ``lowest``; None before the first finite step
        self._clear()

    def _clear(self) -> None:
        self.arrived = self.finite = 0
        # Sums of (loss - previous mean): subtracting first keeps the variance exact if the noise
        # is small and the loss large.
        self.off = self.squares = self.norms = self.peak = 0.0

    def add(self, loss: float, gradient_norm: float, numbers: Numbers | None = None) -> None:
        """Add the numbers of a finished step; those of signals that nobody reads are ignored."""
        self.arrived += 1
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return
        self.finite += 1
        off = loss - self.loss
        self.off += off
        self.squares += off * off
        self.norms += gradient_norm
        if gradient_norm > self.peak:
            self.peak = gradient_norm
        if numbers:
            for name, window in self._windows.items():
                if (value := numbers.get(name)) is not None:
                    window.add(value)

    def note(self, **values: Value) -> None:
        """Set values of held signals; those that nobody reads are ignored."""
        self._values |= {name: value for name, value in values.items() if name in self._values}

    def mark(self) -> tuple[float, float, float | None]:
        """Return what later windows are compared with: the loss, its lowest, QAT at that."""
        return self.loss, self.lowest, self.qat

    def back_to(self, mark: tuple[float, float, float | None]) -> None:
        """Compare later windows with those before a mark, because the weights are those of then."""
        self.loss, self.lowest, self.qat = mark

    def snapshot(
        self,
        step: int,
        progress: float,
        lr_scale: float,
        kept: int | None,
        levers: LeverValues,
    ) -> Snapshot:
        """Return the current window, and begin the next one."""
        count, arrived = self.finite, self.arrived
        velocity = noise = 0.0
        if count:
            off = self.off / count
            self.loss += off
            self.norm = self.norms / count
            if count > 1:
                noise = math.sqrt(max(0.0, self.squares / count - off * off) / (count - 1))
            if self.qat != levers["qat"]:  # losses before and after the switch are not comparable
                self.lowest, self.qat = self.loss, levers["qat"]
            else:
                velocity = off / arrived
                if self.loss < self.lowest:
                    self.lowest = self.loss
            for name, window in self._windows.items():
                if window.count:
                    self._values[name] = window.close()
        signals = {
            "loss": self.loss,
            "velocity": velocity,
            "noise": noise,
            "lowest": self.lowest,
            "gradient_norm": self.norm,
            "gradient_peak": self.peak if count else self.norm,
            **self._values,
        }
        for name in self._unread:
            del signals[name]
        self._clear()
        return Snapshot(step, progress, lr_scale, arrived - count, arrived, kept, levers, signals)

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON; it includes the current window."""
        windows = {name: [window.count, window.total] for name, window in self._windows.items()}
        own = {name: getattr(self, name) for name in OWN}
        return own | {"windows": windows, "values": dict(self._values)}

    def load(self, state: Mapping[str, Any] | Sequence) -> None:
        """Restore what ``state`` returned, or the list that older checkpoints hold."""
        if not isinstance(state, Mapping):
            listed = dict(zip(LISTED, state, strict=True))
            state = listed | {"windows": {}, "values": {"int6_error": listed.pop("error")}}
        for name in OWN:
            setattr(self, name, state[name])
        for name, window in self._windows.items():
            window.count, window.total = state["windows"].get(name, (0, None))
        self._values = {name: state["values"].get(name) for name in self._values}
