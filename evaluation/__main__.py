"""``python -m evaluation``: score an artifact, check that the scores are lawful, write text."""

import os
import secrets
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import command_line
from data.ending import ending
from errors import InputError
from evaluation.every import Artifact, Given, app, main, opened, show
from files import PROJECT
from settings.options import NOTHING, options

if TYPE_CHECKING:
    GivenToWrite = Given
else:
    GivenToWrite = options(
        {"eval_seq_len": "--context"},
        ("data", "tokenizer", "eval_seq_len", "device", "dtype"),
    )
MOST_TEXTS = 1_000_000  # of a prompt


@app.default
@app.command
def score(artifact: Artifact, /, *, given: Given = NOTHING) -> None:
    """Print bits per byte by windows: plain, or sliding with --stride. The default command."""
    # Without a stride each window scores all of its tokens.
    subject = opened(artifact, {"eval_stride": "0", **given})
    settings = subject.settings
    stride = settings.eval_stride or settings.eval_seq_len
    show(subject, partial(subject.score, subject.split, stride))
    subject.world.stop()


@app.command
def ttt(artifact: Artifact, /, *, given: Given = NOTHING) -> None:
    """Print bits per byte by score-first test-time training."""
    subject = opened(artifact, {**given, "ttt_enabled": True})
    show(subject, partial(subject.adapt, subject.split))
    subject.world.stop()


@app.command
def audit(
    artifact: Artifact,
    /,
    *,
    cuts: Annotated[int, Parameter(help="places where tokens change")] = 40,
    places: Annotated[
        int, Parameter(help="targets of each method to score again; 0: 3,000 on a GPU, or 300")
    ] = 0,
    audit_seed: Annotated[
        int | None, Parameter(help="of all choices; by default nobody knows it before")
    ] = None,
    code: Annotated[
        Path, Parameter(help="the entrant's code: a project's folder, or its train_gpt.py")
    ] = PROJECT,
    given: Given = NOTHING,
) -> int:
    """Print what a legal score must be, as a table; the exit code is 1 if it is not.

    Start it from a clean checkout: the entrant's code runs in a process of its own.
    """
    from evaluation.audit.audit import audit
    from evaluation.audit.case import Effort

    if cuts < 1 or places < 0:
        raise InputError(f"--cuts {cuts} --places {places}: choose 1 or more cuts")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("an audit runs in one process; start it without torchrun")
    if not code.exists():
        raise InputError(f"--code {code}: no such folder or file")
    seed = secrets.randbits(32) if audit_seed is None else audit_seed
    with ending() as received:
        try:
            return audit(artifact, given, code, Effort(cuts, places, seed))
        except KeyboardInterrupt:
            if not received:
                raise
    command_line.complain("interrupted")
    return 128 + received[0]


@app.command
def generate(
    artifact: Artifact,
    /,
    *,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    temperature: float = 0.8,
    top_k: int = 50,
    max_tokens: int = 200,
    count: int = 1,
    seed: int = 0,
    given: GivenToWrite = NOTHING,
) -> None:
    """Write texts, each character as soon as it is there; they end where a document ends.

    If the artifact lies in its run's folder, the tokenizer is that of the run's data.

    Args:
        prompt: what the texts begin with; "-": prompts from stdin, one a line
        temperature: what logits are divided by; 0: always the most likely token
        top_k: draw from so many of the most likely tokens; 0: from all
        max_tokens: of a text, besides its prompt
        count: texts of each prompt
        seed: of the first text's random numbers; the second text has the next seed
    """
    from evaluation.generation import Sampling
    from evaluation.writer import Writer, prompts_of, write

    if not 1 <= count <= MOST_TEXTS:
        raise InputError(f"--count {count}: choose 1 to {MOST_TEXTS:,}")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed {seed}: choose 0 to 2^63 - 1")
    sampling = Sampling(temperature, top_k, max_tokens)
    texts = prompts_of(prompt, sys.stdin.buffer)
    writer = Writer.open(artifact, given)
    sampling = replace(sampling, length=writer.length)
    print(write(writer, texts, range(seed, seed + count), sampling, sys.stdout), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
