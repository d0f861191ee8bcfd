"""What several GPUs are measured with, and what is printed of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.__main__ import main as bench
from bench.step import parallel

SEEN = {"steps": 8, "work": 50_000.0, "collectives": []}
MEASURED = {
    "tokens": 1.7e6,
    "seconds": 0.058,
    "start": 21.5,
    "memory": 12.25,
    "collectives": 1412.0,
    "hidden": 0.4,
    "reductions_hidden": 0.6,
    "launches": 0.0,
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Commands of torchrun, which starts nothing; the machine has two GPUs."""
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str], **_: object) -> None:
        commands.append(command)
        ranks = int(next(each for each in command if "nproc" in each).partition("=")[2])
        numbers = MEASURED | {"tokens": 1.7e6 * ranks, "ranks": [SEEN] * ranks}
        Path(command[command.index("--rank") + 1]).write_text(json.dumps(numbers))

    monkeypatch.setattr(parallel, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return commands


def test_ranks_have_the_settings_and_memory_and_start_are_printed(started, capsys):
    settings = ["--preset", "frontier", "--kg-loss-weight", "0"]
    assert bench(["parallel", "--commit", "abc", "--", *settings]) == 0
    assert ["--nproc_per_node=1" in each for each in started] == [True, False]
    assert all(each[each.index("--") + 1 :] == settings for each in started)
    printed = capsys.readouterr().out
    assert "settings: --preset frontier --kg-loss-weight 0" in printed
    for row in ("one GPU, memory | 12.25 GiB", "2 GPUs, start | 21.5 s"):
        assert f"| {row} | - |" in printed


def test_each_rank_takes_the_settings(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(parallel, "measure_rank", lambda *asked: given.append(asked))
    file = tmp_path / "measured.json"
    for settings in ((), ("--preset", "frontier")):
        assert bench(["parallel", "--rank", str(file), "--", *settings]) == 0
        assert given.pop() == (file, settings)
