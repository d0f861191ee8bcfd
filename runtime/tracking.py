"""Trackers: a run's log, row by row, to TensorBoard or Weights & Biases through their libraries.

They are optional. Only the run that asks for one imports it, on rank 0. A tracker gets numbers that
the run logs anyway, so a step computes and waits for nothing more. If it fails, the run goes on.
"""

import importlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from runtime.listeners import Fields
from runtime.records import read_log

PREFIXES = {"step": "train", "validation": "val", "decision": "lever", "summary": "summary"}


class Sink(Protocol):
    """A tracked run."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record numbers of a step, by name."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir runs`` shows all runs.

    Args:
        folder: of the run.
        config: its settings.
        identity: not needed, because the folder is the identity.
        step: the last one that the log has; what was recorded after it is hidden.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], identity: str, step: int):
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        if step == 0:
            lines = [f"    {name} = {value}" for name, value in config.items()]
            self.writer.add_text("settings", "\n".join(lines), 0)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record numbers of a step; a thread of the library writes the file."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases; the library's variables choose mode, project and name.

    Arguments as of `TensorBoard`; ``identity`` names the run there, so that a resumed run goes on.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], identity: str, step: int):
        wandb = importlib.import_module("wandb")

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "murmuration"),
            name=os.environ.get("WANDB_NAME", folder.resolve().name),
            id=identity,
            resume="allow",
            dir=str(folder.resolve()),
            config=dict(config),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )
        # The library's counter must grow, but a resumed run repeats the steps since its checkpoint.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record numbers of a step; a process of the library sends them."""
        self.run.log({"step": step, **numbers})

    def close(self) -> None:
        """Send what is left, and whether the run failed."""
        self.run.finish(exit_code=int(sys.exc_info()[0] is not None))


SINKS: dict[str, Callable[[Path, Mapping[str, object], str, int], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


class Tracker:
    """Listens to a run's log; starts its sink before the first step, off the clock.

    Args:
        name: key of ``SINKS``.
        log_file: the run's log.jsonl.
        config: the run's settings.
        log: adds a row to the log.
        say: prints a line.
    """

    def __init__(
        self,
        name: str,
        log_file: Path,
        config: Mapping[str, object],
        log: Callable[..., None],
        say: Callable[[str], None],
    ) -> None:
        self.name, self.log_file, self.config = name, log_file, config
        self.log, self.say = log, say
        self.sink: Sink | None = None
        self.step = 0

    def event(self, kind: str, fields: Fields) -> None:
        """Send a row's numbers."""
        if kind == "startup":
            self._guarded(self._start)
        prefix, sink = PREFIXES.get(kind), self.sink
        if prefix and sink:
            self.step = int(fields.get("step", self.step))
            found = dict(numbers(prefix, named(kind, fields)))
            self._guarded(lambda: sink.write(self.step, found))

    def close(self) -> None:
        """Let the tracker write what is left."""
        if self.sink:
            self._guarded(self.sink.close)
            self.sink = None

    def _start(self) -> None:
        rows = list(read_log(self.log_file))
        known = [row["id"] for row in rows if row["kind"] == "tracked" and row.get("id")]
        identity = str(known[-1]) if known else os.environ.get("WANDB_RUN_ID", secrets.token_hex(4))
        step = max((int(row.get("step", 0)) for row in rows), default=0)
        self.sink = SINKS[self.name](self.log_file.parent, self.config, identity, step)
        if not known:
            self.log("tracked", tracker=self.name, id=identity)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call a library; after any failure the run goes on without it."""
        try:
            call()
        except Exception as error:
            self.sink = None
            said = " ".join(str(error).split()) or type(error).__name__
            self.say(f"tracker {self.name} ends, the run goes on: {said[:300]}")


def named(kind: str, fields: Fields) -> Fields:
    """Return a row's fields by the names that a tracker shows."""
    if kind == "validation":
        method = f"{fields['weights']}_{fields['method']}".replace(" ", "_")
        return {method: {name: fields[name] for name in ("bpb", "nats")}}
    if kind == "decision":
        return {fields["lever"]: fields["value"]}
    return fields


def numbers(prefix: str, fields: Fields) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a row by path, those of tables inside of it included."""
    for name, value in fields.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            yield from numbers(path, value)
        elif isinstance(value, int | float) and name != "step":
            yield path, float(value)
