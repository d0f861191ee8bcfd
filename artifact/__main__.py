"""``python -m artifact``: what an artifact holds, and a contest folder of runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

import command_line

app = command_line.program(
    "python -m artifact", "Look into an artifact, or make a contest folder of finished runs."
)


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code: 2, after one line, for what is not an artifact."""
    return command_line.run(app, arguments)


@app.command
def inspect(file: Path, /) -> None:
    """List the tensors of an artifact."""
    from rich.console import Console

    from artifact.inspection import show

    show(file, Console())


@app.command
def submit(*runs: Path, out: Path, against: float | None = None, name: str | None = None) -> None:
    """Write a contest folder of finished runs.

    Args:
        runs: run folders that differ in their seed
        out: the folder to make
        against: bits per byte to beat
        name: of the submission; by default that of the folder
    """
    from artifact.submission import submit

    print(submit.submit(runs, out, against, name))
    print(f"contest folder: {out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
