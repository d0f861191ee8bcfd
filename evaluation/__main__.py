"""``python -m evaluation``: score an artifact, or check that the scores are lawful."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import command_line
from errors import InputError
from settings.options import NOTHING, Given, options

if TYPE_CHECKING:
    from evaluation.score import Score, Scoring
    from evaluation.subject import Subject
else:
    Given = options(
        {
            "eval_seq_len": "--seq-len",
            "eval_stride": "--stride",
            "val_batch_size": "--batch-tokens",
            "val_max_tokens": "--max-tokens",
        }
    )
Artifact = Annotated[Path, Parameter(help="the artifact's file")]
app = command_line.program(
    "python -m evaluation",
    """Score an artifact, or check that the scores are lawful.

It needs the file, the code and the data, nothing of the run that made it. Every setting of train.py
is an option too; if the artifact lies in its run's folder, the run's settings are the defaults.
Under torchrun, score and ttt share the work among the ranks.""",
)


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns 1 where an audit fails, 2 for bad input."""
    return command_line.run(app, arguments)


@app.default
@app.command
def score(artifact: Artifact, /, *, given: Given = NOTHING) -> None:
    """Print bits per byte by windows: plain, or sliding with --stride. The default command."""
    # Without a stride each window scores all of its tokens.
    subject = opened(artifact, {"eval_stride": "0", **given})
    settings = subject.settings
    stride = settings.eval_stride or settings.eval_seq_len
    show(subject, lambda scoring: subject.score(subject.split, stride, scoring))


@app.command
def ttt(artifact: Artifact, /, *, given: Given = NOTHING) -> None:
    """Print bits per byte by score-first test-time training."""
    subject = opened(artifact, {**given, "ttt_enabled": True})
    show(subject, lambda scoring: subject.adapt(subject.split, scoring))


@app.command
def audit(
    artifact: Artifact,
    /,
    *,
    cuts: Annotated[int, Parameter(help="places where tokens change")] = 200,
    given: Given = NOTHING,
) -> int:
    """Print what a legal score must be, as a table; the exit code is 1 if it is not."""
    from evaluation.audit.audit import audit

    if cuts < 1:
        raise InputError(f"--cuts {cuts}: choose 1 or more")
    subject = opened(artifact, {**given, "ttt_enabled": True})
    try:
        return audit(subject, cuts)
    finally:
        subject.world.stop()


def opened(artifact: Path, given: Given) -> "Subject":
    """Return the artifact and its data.

    Raises:
        InputError: artifact, data or settings are missing, corrupt or do not fit together.
    """
    if "data" not in given:
        raise InputError("give --data, a folder of token shards")
    from evaluation.subject import Subject

    return Subject.open(artifact, given)


def show(subject: "Subject", score: "Callable[[Scoring], Score]") -> None:
    """Print one score; then the ranks part."""
    from evaluation.score import Scoring
    from runtime.progress import Progress

    with Progress(None, None, subject.world.is_main) as progress:

        def tell(done: int, parts: int) -> None:
            progress.phase(f"evaluating: {done / parts:.0%}")

        try:
            found = score(Scoring(subject.world, tell))
        finally:
            subject.world.stop()
    if subject.world.is_main:
        print(f"bpb {found.bpb:.6f}  nats {found.nats:.6f}  {found.tokens:,} tokens, ", end="")
        print(f"{found.bytes:,} bytes, {found.seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
