"""Runs of a series: what one that diverged comes to."""

from pathlib import Path

import pytest

from bench.harness import runs
from errors import InputError
from tests.bench.studies.test_ablate import SMALL

HOT = ("--matrix-lr", "1e30", "--tied-embed-lr", "1e30")


@pytest.mark.slow
def test_a_run_that_left_nothing_is_finished_and_made_once(
    builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*SMALL.split(), "--data", str(builtin), *HOT]
    found = runs.summary(tmp_path / "hot", command)
    assert found == {"diverged": True, "scores": {}}
    monkeypatch.setattr(runs.train, "main", lambda arguments: pytest.fail("made again"))
    assert runs.summary(tmp_path / "hot", command) == found


def test_a_run_that_was_refused_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended with 2"):
        runs.summary(tmp_path / "a", ["--preset", "tiny", "--data", "/nope"])
