"""The program ``python -m evaluation``, and its command that a submission has, too: all scores."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import command_line
from errors import InputError, printable
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
    """Score an artifact, check that the scores are lawful, or write text.

It needs the file, the code and the data, nothing of the run that made it. Every setting of train.py
is an option too; in its run's folder, an artifact's windows, TTT, data type and backend are the
run's. Under torchrun, score and ttt share the work among the ranks.""",
)


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns 1 if an audit fails, 2 for bad input, 128 + a signal in an audit."""
    return command_line.run(app, arguments)


@app.command(name="all")
def every(artifact: Artifact, /, *, given: Given = NOTHING) -> None:
    """Print every score that a run with these settings has of its artifact."""
    subject = opened(artifact, given)
    settings = subject.settings
    strides = {settings.eval_seq_len, settings.eval_stride or settings.eval_seq_len}
    for stride in sorted(strides, reverse=True):
        show(subject, partial(subject.score, subject.split, stride), f"stride {stride}: ")
    if settings.ttt_enabled:
        show(subject, partial(subject.adapt, subject.split), f"TTT {settings.ttt_method}: ")
    subject.world.stop()


def opened(artifact: Path, given: Given) -> "Subject":
    """Return the artifact and its data, and say which tokenizer, limit and method judge it.

    Raises:
        InputError: artifact, data or settings are missing, corrupt or do not fit together.
    """
    from evaluation.subject import Subject

    subject = Subject.open(artifact, given)
    if subject.world.is_main:
        print(printable(subject.sources()))
        if doubt := subject.doubt():
            command_line.complain(doubt)
    return subject


def show(subject: "Subject", score: "Callable[[Scoring], Score]", name: str = "") -> None:
    """Print one score, after the name of its method."""
    from evaluation.score import Scoring
    from runtime.progress import Progress

    with Progress(None, None, subject.world.is_main) as progress:

        def tell(done: int, parts: int) -> None:
            progress.phase(f"evaluating: {done / parts:.0%}")

        try:
            found = score(Scoring(subject.world, tell))
        except InputError:
            subject.world.stop()
            raise
    if subject.world.is_main:
        print(
            f"{name}bpb {found.bpb:.6f}  nats {found.nats:.6f}  {found.tokens:,} tokens, ", end=""
        )
        print(f"{found.bytes:,} bytes, {found.seconds:.1f} s")
