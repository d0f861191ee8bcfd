"""Compare this tree's times with another commit's.

Two processes stay alive on one GPU, one in each tree. They compile at the same time and are timed
in turn, so that a drifting clock slows both alike. The table has each kernel, the model's forward
and backward, and the sprint's whole step: both times, the median ratio of the rounds, the distance
of its quartiles, and whether both trees compute the same bits. Exits with 1 if a ratio is above the
bound or a tree fails.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from bench.harness.record import Commit, provenance
from errors import InputError
from files import PROJECT

WORKER = PROJECT / "bench" / "commits" / "worker.py"
TURN_US, CALLS = 100_000, (5, 50)  # device time of a turn, and least and most calls in it
TRIES = 2  # of a ratio above the bound: noise passes, a regression stays
HEAD = "| operation | this us | that us | ratio | spread | bits |\n|---|---|---|---|---|---|"


class Worker:
    """A process that times one tree.

    Args:
        tree: its folder.
        tiny: times a size for a CPU.
    """

    def __init__(self, tree: Path, tiny: bool = False) -> None:
        path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, str(WORKER), *(["--tiny"] if tiny else [])]
        self.tree = tree
        self._process = subprocess.Popen(
            command,
            cwd=tree,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **rest: object) -> None:
        """Send a request; `answer` has its reply."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **rest}), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Return the reply to the request.

        Raises:
            RuntimeError: the request failed, or the process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"failed": "its process ended"}
        if "failed" in reply:
            raise RuntimeError(f"{self.tree.name}: {reply['failed']}")
        return reply["done"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Row(NamedTuple):
    """What was measured of one operation: microseconds, and ratios of this tree over that."""

    name: str
    this: float
    that: float
    ratio: float
    spread: float
    same_bits: bool

    def __str__(self) -> str:
        bits = "same" if self.same_bits else "differ"
        times = f"{self.this:.1f} | {self.that:.1f} | {self.ratio:.4f} | {self.spread:.4f}"
        return f"| {self.name} | {times} | {bits} |"


def main(
    other: str,
    /,
    *,
    tree: Path | None = None,
    rounds: int = 10,
    only: Literal["kernels", "model", "step"] | None = None,
    bound: float = 1.01,
    commit: Commit = None,
) -> int:
    """Time both trees in turn on one GPU, print the table.

    Args:
        other: the other tree's commit
        tree: the other tree's folder; without it, git checks the commit out
        rounds: turns of each tree
        only: leave the rest out
        bound: exit with 1 if a ratio is above it
    """
    if not torch.cuda.is_available():
        raise InputError("bench against needs a GPU")
    if rounds < 2:
        raise InputError(f"a spread needs 2 rounds or more, not {rounds}")
    with ExitStack() as opened:
        that = tree.resolve() if tree else opened.enter_context(worktree(other))
        workers = [Worker(PROJECT), Worker(that)]
        for worker in workers:
            opened.callback(worker.close)
        print(HEAD, flush=True)
        good = True
        for found in compare(workers, rounds, only, bound):
            good = good and isinstance(found, Row) and found.ratio <= bound
            print(found, flush=True)
    print(f"\n{about(commit, other)}")
    return int(not good)


def compare(
    workers: Sequence[Worker], rounds: int, only: str | None, bound: float
) -> Iterator[Row | str]:
    """Measure everything; a row for each operation, as a text where a tree failed."""
    workers[0].ask("names", only=only)
    names = workers[0].answer()
    try:
        both(workers, "warm_up", names=names)
    except RuntimeError as error:
        yield failure("compiling", error)
    for name in names:
        try:
            row = measure(workers, name, rounds)
            for _ in range(TRIES - 1):
                if row.ratio > bound:
                    row = measure(workers, name, 2 * rounds)
            yield row
        except RuntimeError as error:
            yield failure(name, error)


def measure(workers: Sequence[Worker], name: str, rounds: int) -> Row:
    """Time one operation of both trees in turn, so many rounds.

    Raises:
        RuntimeError: a tree failed.
    """
    try:
        digests = both(workers, "prepare", name=name)
        least, most = CALLS
        first = turn(workers, least)
        calls = max(least, min(most, round(TURN_US / max(first))))
        times = [turn(workers, calls, reverse=index % 2 == 1) for index in range(rounds)]
    finally:
        both(workers, "drop")
    ratios = [this / that for this, that in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    this, that = (statistics.median(of_tree) for of_tree in zip(*times, strict=True))
    ratio = statistics.median(ratios)
    return Row(name, this, that, ratio, high - low, digests[0] == digests[1])


def turn(workers: Sequence[Worker], calls: int, reverse: bool = False) -> list[float]:
    """Return the median microseconds of each tree's call, one tree after the other."""
    found = [0.0] * len(workers)
    order = list(enumerate(workers))
    for index, worker in reversed(order) if reverse else order:
        worker.ask("time", calls=calls)
        found[index] = worker.answer()
    return found


def both(workers: Sequence[Worker], do: str, **rest: object) -> list[Any]:
    """Return both replies to a request that they work on at the same time.

    Raises:
        RuntimeError: one failed; both have ended.
    """
    for worker in workers:
        worker.ask(do, **rest)
    found: list[Any] = []
    errors: list[RuntimeError] = []
    for worker in workers:
        try:
            found.append(worker.answer())
        except RuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return found


def failure(name: str, error: RuntimeError) -> str:
    """Return a row that says what failed."""
    return f"| {name} | - | - | - | - | {error} |"


def about(this_commit: str | None, that_commit: str) -> str:
    """Return one line: device, versions, commits, date."""
    found = provenance(this_commit)
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "none"
    return (
        f"{found['device']}, torch {found['torch']}, triton {triton}, "
        f"this {found['commit']}, that {that_commit}, {found['date']}"
    )


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Yield a checkout of a commit, removed at the end.

    Raises:
        InputError: git has no such commit, or is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        try:
            git("worktree", "add", "--detach", str(path), commit)
        except (OSError, subprocess.CalledProcessError) as error:
            text = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise InputError(f"no worktree of {commit}: {text[-1]}; --tree names one") from None
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def git(*arguments: str) -> None:
    """Run git in this project."""
    subprocess.run(
        ["git", "-C", str(PROJECT), *arguments], check=True, capture_output=True, text=True
    )
