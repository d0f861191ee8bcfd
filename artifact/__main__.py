"""``python -m artifact``: what an artifact holds, and a contest folder of runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import command_line
from artifact.submission.asked import BY_BEST, NO_RIVAL, NOTHING_SAID, About, Judging, Rival
from data.ending import ending

app = command_line.program(
    "python -m artifact", "Look into an artifact, or make a contest folder of finished runs."
)

OPTIONS = Parameter(name="*")


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns 0, 2 after one line that says what is wrong, 128 + a signal."""
    with ending() as received:
        code = command_line.run(app, arguments)
    return 128 + received[0] if received else code


@app.command
def inspect(file: Path, /) -> None:
    """List the tensors of an artifact."""
    import terminal
    from artifact.inspection import show

    show(file, terminal.console(markup=True))


@app.command
def submit(
    *runs: Path,
    out: Path,
    about: Annotated[About, OPTIONS] = NOTHING_SAID,
    rival: Annotated[Rival, OPTIONS] = NO_RIVAL,
    judging: Annotated[Judging, OPTIONS] = BY_BEST,
) -> None:
    """Write a contest folder of finished runs.

    Args:
        runs: run folders that differ in their seed
        out: the folder to make
    """
    from artifact.submission.submit import submit as submitted

    verdict, others = submitted(runs, out, about, rival, judging)
    print(verdict)
    for other in others:
        print(f"not submitted, with the same settings: {other.path} (seed {other.seed})")
    missing = about.missing()
    if missing:
        options = " ".join(f"--{name.replace('_', '-')}" for name in missing)
        print(f"empty in submission.json: {', '.join(missing)}; fill in, or give {options}")
    print(f"contest folder: {out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
