"""Try settings: runs of a preset as it is and with each trial's changes, at equal seeds.

    python -m bench trials --data DIR --preset frontier-sprint --seeds 2 --out FILE
        --trial "more decay: --muon-wd 0.19" --trial "value tables: --ve-enabled" -- --wallclock 135

Scores are plain ones of raw, averaged and quantised weights. To choose settings, give data of
``python -m bench hold_out``. Each GPU makes one run after another. Finished runs are not repeated,
so an interrupted trial continues. What follows ``--`` goes to every run.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.harness.pairs import CHEAP, compare, passed_on, plan
from bench.harness.record import Commit
from errors import InputError

AS_IT_IS = "as it is"


def main(
    *settings: str,
    data: Path,
    preset: str,
    trial: list[str],
    seeds: int = 1,
    runs: Path = Path("runs/trials"),
    out: Path | None = None,
    commit: Commit = None,
) -> int:
    """Run what is not finished, print the table, write it where ``--out`` says.

    Args:
        settings: for train.py, after --
        data: as shards
        preset: of all runs
        trial: a name, a colon and options of train.py
        seeds: runs of each, from 1337 on
        runs: for run folders
        out: file for the table

    Returns:
        0; 1 if a run diverged; 130 or 143 if it was interrupted, with a table of the finished runs.
    """
    base = ["--data", str(data), "--preset", preset, *CHEAP, *settings]
    command = f"python -m bench trials --data DIR --preset {preset} --seeds {seeds} "
    command += shlex.join(part for each in trial for part in ("--trial", each))
    command += passed_on(settings)
    return compare(plan(base, seeds, options_of(trial), runs), out, command, commit)


def options_of(trials: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return options by name, the preset's own first.

    Raises:
        InputError: a trial without a name or options, or two of one name.
    """
    options: dict[str, tuple[str, ...]] = {AS_IT_IS: ()}
    for trial in trials:
        name, _, text = (part.strip() for part in trial.partition(":"))
        if not name or not text:
            raise InputError(f'--trial {trial!r}: write it as "name: --option value"')
        if name in options:
            raise InputError(f"--trial: {name!r} is named twice")
        try:
            options[name] = tuple(shlex.split(text))
        except ValueError as error:
            raise InputError(f"--trial {trial!r}: {error}") from error
    return options
