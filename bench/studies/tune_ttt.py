"""Tune the settings of test-time training one after another on a development split.

    python -m bench hold_out docs_train_00.jsonl.xz --train TRAIN.jsonl --held HELD.jsonl
    python -m data prepare --train TRAIN.jsonl --val HELD.jsonl --tokenizer MODEL --out DEV
    python -m bench sprint --data DEV --runs RUNS
    python -m bench tune_ttt RUNS/sprint--1337/artifact.bin --data DEV --seconds 165

The split must be of authors that the artifact was not trained on, as the contest's is, and must not
be the one whose score is reported. Each setting in turn takes its best value while the others stay.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.harness.record import Commit, as_lines, provenance
from errors import InputError
from evaluation.score import Scoring
from evaluation.subject import Subject

Choice = Mapping[str, float]
AXES: tuple[tuple[str, Sequence[float]], ...] = (
    ("ttt_lr", (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)),
    ("ttt_batch_seqs", (2, 4, 8, 32)),
    ("ttt_lr", (0.016, 0.032, 0.064, 0.128)),
    ("ttt_epochs", (1, 2, 3, 4, 5)),
    ("ttt_chunk_tokens", (16_384, 32_768, 65_536)),
    ("ttt_momentum", (0.0, 0.8, 0.9, 0.95)),
    ("ttt_grad_clip", (0.0, 0.3, 1.0)),
    ("ttt_freeze_blocks", (0, 2, 5)),
)


def main(
    artifact: Path,
    /,
    *,
    data: Path,
    stride: int = 512,
    seconds: float = 300.0,
    commit: Commit = None,
) -> None:
    """Print a line a trial and the best choice.

    Args:
        data: the development split as shards
        stride: of the windows that score
        seconds: no trial begins later
    """
    ends = time.monotonic() + seconds
    subject = Subject.open(artifact, {"data": data, "eval_stride": stride, "ttt_enabled": True})
    print(as_lines(provenance(commit)))
    plain = subject.score(subject.split, stride, Scoring(subject.world))
    print(f"sliding, stride {stride}: {plain.bpb:.5f}, {plain.seconds:.1f} s", flush=True)
    start = {axis: getattr(subject.settings, axis) for axis, _ in AXES}
    gain = partial(gained, subject, plain.bpb)
    print("best:", shown(descend(gain, start, AXES, lambda: time.monotonic() < ends)))
    subject.world.stop()


def gained(subject: Subject, before: float, choice: Choice) -> float:
    """Return the bits per byte that a choice gains over ``before``; -inf if it is impossible."""
    trial = replace(subject, settings=subject.settings.model_copy(update=choice))
    try:
        score = trial.adapt(subject.split, Scoring(subject.world))
    except InputError as error:
        print(f"left out: {error}", flush=True)
        return float("-inf")
    print(f"{before - score.bpb:+.5f} {score.seconds:5.1f} s  {shown(choice)}", flush=True)
    return before - score.bpb


def descend(
    gain: Callable[[Choice], float],
    start: Choice,
    axes: Sequence[tuple[str, Sequence[float]]],
    goes_on: Callable[[], bool],
) -> dict[str, float]:
    """Return the best choice; each trial differs from the best so far in one axis.

    Args:
        gain: of a choice; called once for each.
        start: a value for every axis.
        axes: in turn, with the values to try.
        goes_on: whether there is time for another trial.
    """
    known: dict[tuple[tuple[str, float], ...], float] = {}
    best = dict(start)

    def of(choice: Choice) -> float:
        key = tuple(sorted(choice.items()))
        if key not in known:
            known[key] = gain(choice) if goes_on() else float("-inf")
        return known[key]

    for axis, values in axes:
        tried = [best, *({**best, axis: value} for value in values)]
        best = max(tried, key=of)
    return best


def shown(choice: Choice) -> str:
    """Return a choice as text."""
    return " ".join(f"{axis.removeprefix('ttt_')}={value:g}" for axis, value in choice.items())
