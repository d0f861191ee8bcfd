"""What gets the rows of a run's log as they are written: ``train.log`` and trackers."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from errors import InputError

Fields = Mapping[str, Any]


class Listener(Protocol):
    """What gets the rows of a run's log as they are written. It raises nothing."""

    def event(self, kind: str, fields: Fields) -> None:
        """Receive a row."""
        ...

    def close(self) -> None:
        """Finish, because the run ends."""
        ...


def check_tracker(name: str) -> None:
    """Raise InputError, before a run uses a GPU, if the library of its tracker is missing.

    Args:
        name: of the tracker, which is its library's; or "none".
    """
    if name == "none":
        return
    if find_spec("runtime.tracking") is None:
        raise InputError("this file has no trackers; leave --track out")
    found = find_spec(name)
    # A folder of this name, such as the one that wandb writes, is no library.
    if found is None or found.origin is None:
        raise InputError(f"--track {name} needs its library; pip install {name}")


class TextLog:
    """A run as plain text, in the form of contest records; a full disk costs the line only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, text: str) -> None:
        """Append what was printed."""
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{text}\n")
        except OSError:
            pass

    def event(self, kind: str, fields: Fields) -> None:
        """Append the line of a step, a score, a decision or a checkpoint; of other rows none."""
        with suppress(KeyError):  # a row that is not whole has no line
            self.say(f"step:{fields['step']} {LINES[kind](fields)}")

    def close(self) -> None:
        """Do nothing, because each line is written at once."""


def _step(row: Fields) -> str:
    # A row's time is when the step was launched: the steps before it have ended.
    average = row["elapsed"] / max(1, row["step"] - 1)
    return f"train_loss:{row['loss']:.4f} {_time(row)} step_avg:{1000 * average:.2f}ms"


def _validation(row: Fields) -> str:
    scores = f"val_loss:{row['nats']:.4f} val_bpb:{row['bpb']:.4f} {_time(row)}"
    took = f"eval_time:{1000 * row['seconds']:.0f}ms"
    return f"{scores} {took} weights:{row['weights']} method:{row['method']}"


def _time(row: Fields) -> str:
    return f"train_time:{1000 * row['elapsed']:.0f}ms"


LINES: dict[str, Callable[[Fields], str]] = {
    "step": _step,
    "validation": _validation,
    "decision": lambda row: f"{row['lever']}:{row['value']}",
    "checkpoint": lambda row: f"checkpoint {_time(row)}",
    "checkpoint_failed": lambda row: f"no checkpoint: {row['error']}",
}
