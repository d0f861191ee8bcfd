"""Several ranks train as one does, under one agent or under several."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from files import PROJECT
from tests import warm
from tests.small import clean_environment, free_port
from tests.train.runs import ANOTHER_ORDER, losses, meet, train


@pytest.fixture(scope="module")
def run_of(corpus: Path) -> Callable[[int], Path]:
    """Return the folder of a run of so many ranks, two of them under torchrun; made once."""

    @cache
    def make(ranks: int) -> Path:
        run = corpus / f"ranks{ranks}"
        started = train if ranks == 2 else meet
        done = started(*options(corpus, run), ranks=ranks)
        assert done.returncode == 0, done.stderr
        return run

    return make


def options(corpus: Path, run: Path) -> list[object]:
    return ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", run]


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_losses(run_of, straight, ranks):
    run = run_of(ranks)
    assert losses(run) == pytest.approx(losses(straight), rel=ANOTHER_ORDER)
    scores = [json.loads((r / "summary.json").read_text())["scores"] for r in (run, straight)]
    for row in scores[0]:
        assert scores[0][row]["bpb"] == pytest.approx(scores[1][row]["bpb"], rel=2e-4)
        assert scores[0][row]["tokens"] == scores[1][row]["tokens"]


def test_ranks_that_do_not_divide_the_batch_are_one_line_and_exit_2(corpus):
    arguments = ["--config", corpus / "run.toml", "--data", corpus / "data"]
    done = train(*arguments, RANK="0", WORLD_SIZE="5")
    assert done.returncode == 2
    assert "5 ranks cannot share" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_agents_train_as_one_agent_of_as_many_ranks(corpus, run_of):
    port = free_port()
    run = corpus / "two-agents"
    agent = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
    agent += [str(PROJECT / "train.py"), *map(str, options(corpus, run))]
    environment = clean_environment(GLOO_SOCKET_IFNAME="lo")
    agents = [warm.start(*agent, environment=environment) for _ in range(2)]
    try:
        for process in agents:
            assert process.wait(timeout=240) == 0, process.stderr
    finally:
        for process in agents:
            process.kill()
    assert losses(run) == losses(run_of(2))
