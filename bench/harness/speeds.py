"""A record of speed: one file of numbers, why some are missing, and a table with their bars."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.harness.figures import Figure, figures_table, missed
from bench.harness.record import as_lines, write_json
from errors import InputError

FIELDS = (
    *("forward_backward", "step", "step_looped", "step_compiled", "step_seed"),
    *("gpus4", "ttt4", "start_warm", "start_cold", "kernels"),
)
# Not measured for their own sake: ``step_beside`` is our step in turn with the compiled one.
ABOUT_FIELDS = ("attention", "step_beside", "start_phases")
DISTURBED = 1.03  # most that our step beside the compiled one may take, over our step alone
REASON = 300  # characters


class Record:
    """What is measured, and a file of it that is whole at any time.

    Attributes:
        numbers: of ``FIELDS``, milliseconds, shares, seconds and, by contest, times over floors;
            of the compiled step, the name of its attention and our step in turn with it; seconds
            of a start's phases by start.
            None: not measured.
        missing: why, by field. A field may have a part of its numbers and a reason.

    Args:
        path: of the file.
        about: provenance.
        resume: begin with the numbers of the file.
    """

    def __init__(self, path: Path, about: Mapping[str, str], resume: bool = False) -> None:
        before = read(path, about) if resume else {}
        self.path, self.about = path, about
        self.numbers = {name: before.get(name) for name in (*FIELDS, *ABOUT_FIELDS)}
        self.missing: dict[str, str] = dict(before.get("missing", {}))

    def lacks(self, name: str) -> bool:
        """Return whether a field is to be measured."""
        return self.numbers[name] is None or name in self.missing

    def keep(self, found: Mapping[str, Any], whole: bool = True) -> None:
        """Write numbers; if they are not ``whole``, what is missing stays so."""
        self.numbers.update(found)
        if whole:
            self.missing = {name: why for name, why in self.missing.items() if name not in found}
        self._write()

    def lack(self, names: Iterable[str], why: str) -> None:
        """Write why fields are missing."""
        self.missing |= dict.fromkeys(names, why[:REASON])
        self._write()

    def _write(self) -> None:
        content = {**self.about, **self.numbers, "missing": self.missing}
        write_json(self.path, content)


def read(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """Return an earlier record of this device and commit.

    Raises:
        InputError: there is none.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = all(before[name] == about[name] for name in ("device", "commit"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: nothing to resume: {error}") from None
    if not same:
        raise InputError(f"{path} is of another device or commit; leave out --resume")
    return before


def report(record: Record) -> int:
    """Print the table; return 1 if a bar is missed."""
    found = figures(record.numbers)
    print(as_lines(record.about))
    print(figures_table(found))
    for start, phases in (record.numbers["start_phases"] or {}).items():
        print(f"{start}: {', '.join(f'{name} {seconds} s' for name, seconds in phases.items())}")
    for name, why in record.missing.items():
        print(f"missing: {name}: {why}")
    return int(bool(missed(found)))


def figures(numbers: Mapping[str, Any]) -> list[Figure]:
    """Return the numbers that there are, with their bars."""
    step, of_floor = numbers["step"] or float("nan"), numbers["kernels"] or {}
    slowest = max(of_floor, key=of_floor.__getitem__, default="")
    names = ("step_looped", "step_compiled", "step_beside")
    looped, by_compiler, beside = (numbers[name] for name in names)
    rows = [
        ("forward and backward", numbers["forward_backward"], "ms", 54, None),
        ("step", numbers["step"], "ms", 56, None),
        ("step with 17 visits", looped, "ms", None, None),
        ("step with 17 visits over step", looped and looped / step, "", 1.42, None),
        (f"step, compiled around {numbers['attention']}", by_compiler, "ms", None, None),
        ("our step beside it, over step", beside and beside / step, "", DISTURBED, None),
        ("step, compiled, over ours", beside and by_compiler / beside, "", None, 1.4),
        ("step of preset seed", numbers["step_seed"], "ms", 53, None),
        ("start of preset frontier, warm", numbers["start_warm"], "s", 10, None),
        ("start of preset frontier, cold", numbers["start_cold"], "s", 45, None),
        (f"worst time over floor: {slowest}", of_floor.get(slowest), "", 2, None),
        ("4 GPUs, of 4 times one", numbers["gpus4"], "", None, 0.98),
        ("test-time training on 4 GPUs, one's time over it", numbers["ttt4"], "", None, 3),
    ]
    return [
        Figure(what, value, unit, most, least)
        for what, value, unit, most, least in rows
        if value is not None
    ]
