"""``python -m runtime.plot RUN [RUN...]``: a run in one picture, or several compared."""

import sys
from collections.abc import Sequence
from pathlib import Path

import command_line
from errors import InputError
from runtime.plot import plot_run, plot_runs

app = command_line.program("python -m runtime.plot", "Draw a run, or compare several.")


@app.default
def draw(*runs: Path, out: Path | None = None) -> int:
    """Draw run folders.

    Args:
        runs: one folder, or several to compare
        out: the picture; by default loss.png in the folder, or compare.png here
    """
    if not runs:
        raise InputError("name a run's folder, or several to compare them")
    logs = [run / "log.jsonl" for run in runs]
    for log in logs:
        if not log.is_file():
            raise InputError(f"{log.parent} is no run folder: it has no log.jsonl")
    target = out or (runs[0] / "loss.png" if len(runs) == 1 else Path("compare.png"))
    if len(runs) == 1:
        plot_run(logs[0], target)
    else:
        plot_runs(logs, target)
    print(target)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code."""
    return command_line.run(app, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
