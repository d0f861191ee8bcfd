"""Score an artifact, or check that the scores are lawful.

python -m evaluation ARTIFACT --data DIR [--stride 64]   bits per byte, plain or sliding
python -m evaluation ttt ARTIFACT --data DIR             by score-first test-time training
python -m evaluation audit ARTIFACT --data DIR           what a legal score must be, as a table

It needs the file, the code and the data, nothing of the run that made it. Every setting of train.py
is an option too (--backend, --ttt-lr, ...); where the artifact lies in its run's folder, the run's
settings are the defaults. Under torchrun, score and ttt share the work among the ranks.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from errors import InputError

if TYPE_CHECKING:
    from evaluation.subject import Subject

COMMANDS = ("score", "ttt", "audit")
SHORT = {
    "--data": "--data",
    "--tokenizer": "--tokenizer",
    "--seq-len": "--eval-seq-len",
    "--stride": "--eval-stride",
    "--batch-tokens": "--val-batch-size",
    "--max-tokens": "--val-max-tokens",
}


def main(arguments: list[str]) -> int:
    """Run a command; 1 where an audit fails, 2 for bad input."""
    named = bool(arguments) and arguments[0] in COMMANDS
    command = arguments[0] if named else "score"
    options, others = parser().parse_known_args(arguments[named:])
    try:
        return run(command, options, others)
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The options that have a help here; all others are settings."""
    made = argparse.ArgumentParser(
        prog="python -m evaluation",
        usage="python -m evaluation [score | ttt | audit] ARTIFACT --data DIR [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("artifact", type=Path)
    made.add_argument("--data", required=True, help="folder of token shards")
    made.add_argument("--tokenizer", help="by default the one in the data folder")
    made.add_argument("--seq-len", help="tokens of context; by default the run's, or 2048")
    made.add_argument("--stride", help="tokens a window scores; score: by default all of it")
    made.add_argument("--batch-tokens", help="evaluated at once")
    made.add_argument("--max-tokens", help="score the first so many; 0: all")
    made.add_argument("--cuts", type=int, default=200, help="audit: places where tokens change")
    return made


def run(command: str, options: argparse.Namespace, others: list[str]) -> int:
    """Open what the options name and do it.

    Raises:
        InputError: artifact, data or settings are missing, corrupt or do not fit together.
    """
    from evaluation.subject import Subject

    if options.cuts < 1:
        raise InputError(f"--cuts {options.cuts}: choose 1 or more")
    given = [
        (setting, getattr(options, short[2:].replace("-", "_"))) for short, setting in SHORT.items()
    ]
    arguments = [part for name, value in given if value is not None for part in (name, value)]
    if command != "score":
        arguments.append("--ttt-enabled")
    elif options.stride is None:
        arguments += ["--eval-stride", "0"]
    subject = Subject.open(options.artifact, [*arguments, *others])
    try:
        if command == "audit":
            from evaluation.audit.audit import audit

            return audit(subject, options.cuts)
        score(subject, command)
        return 0
    finally:
        subject.world.stop()


def score(subject: "Subject", command: str) -> None:
    """Print one score."""
    from evaluation.score import Scoring
    from runtime.progress import Progress

    split, settings = subject.split, subject.settings
    with Progress(None, None, subject.world.is_main) as progress:

        def tell(done: int, parts: int) -> None:
            progress.phase(f"evaluating: {done / parts:.0%}")

        scoring = Scoring(subject.world, tell)
        if command == "ttt":
            found = subject.adapt(split, scoring)
        else:
            found = subject.score(split, settings.eval_stride or settings.eval_seq_len, scoring)
    if subject.world.is_main:
        print(f"bpb {found.bpb:.6f}  nats {found.nats:.6f}  {found.tokens:,} tokens, ", end="")
        print(f"{found.bytes:,} bytes, {found.seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
