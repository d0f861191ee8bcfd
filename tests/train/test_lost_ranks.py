"""A rank that is lost keeps no other: each ends soon after torchrun's signal, or by itself."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from runtime import checkpoint
from tests import warm
from tests.small import free_port
from tests.train.runs import surroundings

PATIENCE = 2.0  # seconds
# A run whose ranks lose patience sooner, in which one thing takes as long as SECONDS says.
PROGRAM = f"""
import sys, time
import command_line, train
from evaluation.scoreboard import Scoreboard
from runtime import checkpoint, peers, signals
from training.trainer import Trainer

def slowly(function, word, seconds):
    def slow(*given, **named):
        print(word, flush=True)
        time.sleep(seconds)
        return function(*given, **named)
    return slow

slow, seconds = sys.argv.pop(1), float(sys.argv.pop(1))
if slow == "validation":
    Scoreboard.validate = slowly(Scoreboard.validate, "validating", seconds)
    checkpoint.save = slowly(checkpoint.save, "saving", seconds)
else:  # a GPU that waits for a lost rank
    Trainer.close = slowly(Trainer.close, "closing", seconds)
signals.PATIENCE, peers.SILENCE, peers.LEAVING = {PATIENCE}, {PATIENCE / 2}, {PATIENCE / 2}
peers.POLL, peers.BEAT = 0.1, 0.2
with signals.SIGNALS:
    command_line.end(train.main)
"""


@contextmanager
def ranks_of(
    corpus: Path, run: Path, count: int, slow: str, seconds: float, **environment: str
) -> Iterator[list[warm.Started]]:
    """Start a run of ``count`` ranks without torchrun, which would signal them at other moments."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), **environment}
    program = ["-c", PROGRAM, slow, seconds, "--config", corpus / "run.toml"]
    program += ["--data", corpus / "data", "--run-dir", run, "--val-loss-every", 3]
    program += ["--iterations", 10_000]
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    ranks = [warm.start(*program, environment=surroundings(**shared, **at)) for at in places]
    try:
        yield ranks
    finally:
        for each in ranks:
            each.kill()  # a stopped one, too


def wait_for(word: str, rank: warm.Started) -> None:
    until = time.monotonic() + 100
    while word not in rank.stdout:
        assert rank.returncode is None, rank.stderr
        assert time.monotonic() < until, f"no {word!r} in {rank.stdout}"
        time.sleep(0.01)


def ended(ranks: list[warm.Started]) -> tuple[list[int], float]:
    """Return the ranks' exit codes and the seconds until the last has ended."""
    began = time.monotonic()
    return [each.wait(timeout=25) for each in ranks], time.monotonic() - began


def test_a_signalled_rank_does_not_wait_for_a_lost_one(corpus, tmp_path):
    """Ranks that had noticed the signal waited in a collective until torchrun killed them."""
    with ranks_of(corpus, tmp_path / "run", 3, "validation", PATIENCE / 2) as ranks:
        for each in ranks:
            wait_for("validating", each)
        ranks[1].send_signal(signal.SIGSTOP)
        others = [ranks[0], ranks[2]]
        for each in others:
            each.send_signal(signal.SIGTERM)
        codes, seconds = ended(others)
    assert codes == [128 + signal.SIGTERM] * 2
    assert PATIENCE - 0.5 < seconds < PATIENCE + 8
    said = [line for each in others for line in each.stdout.splitlines() if "interrupted" in line]
    assert said == [ranks[0].stdout.splitlines()[-1]]
    assert "no checkpoint yet" in said[0]


@pytest.mark.parametrize("first", [1, 2])
def test_another_rank_says_how_to_go_on_without_rank_0(first, corpus, tmp_path):
    """Rank 0 alone says it else. torchrun has the store, which outlives all ranks.

    The second to leave finds the first gone, in a collective, and ended as after an error.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}
    with ranks_of(corpus, tmp_path / "run", 3, "validation", PATIENCE / 2, **shared) as ranks:
        for each in ranks:
            wait_for("validating", each)
        ranks[0].send_signal(signal.SIGSTOP)
        for each in first, 3 - first:
            ranks[each].send_signal(signal.SIGTERM)
            time.sleep(PATIENCE / 4)
        codes, _ = ended(ranks[1:])
    assert codes == [128 + signal.SIGTERM] * 2, "".join(each.stderr for each in ranks)
    said = [line for each in ranks[1:] for line in each.stdout.splitlines() if "rank 0" in line]
    assert said == [ranks[first].stdout.splitlines()[-1]]
    assert said[0] == f"rank 0 is lost; go on with: -c --resume {tmp_path / 'run'}"


def test_a_signalled_run_finishes_what_takes_longer_than_its_patience(corpus, tmp_path):
    with ranks_of(corpus, tmp_path / "run", 2, "validation", 2 * PATIENCE) as ranks:
        for each in ranks:
            wait_for("validating", each)
        for each in ranks:
            each.send_signal(signal.SIGTERM)
        codes, seconds = ended(ranks)
    assert codes == [128 + signal.SIGTERM] * 2, "".join(each.stderr for each in ranks)
    assert seconds > 2 * PATIENCE, "validation or checkpoint was cut off"
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.name == "step_000003"
    assert "kept: step 3;" in ranks[0].stdout


def test_a_rank_that_dies_without_a_word_ends_the_run(corpus, tmp_path):
    with ranks_of(corpus, tmp_path / "run", 3, "closing", 20.0) as ranks:
        wait_for("step 3/", ranks[0])
        ranks[1].kill()
        codes, seconds = ended(ranks)
    assert codes[1] == -signal.SIGKILL
    assert sorted((codes[0], codes[2])) == [0, 1]
    assert seconds < 10, "a rank waited before it told the others"
