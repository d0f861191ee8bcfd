"""Code, commit and conduct of a run, as its folder says, against the judge's."""

from pathlib import Path

import pytest

from artifact.submission.code_size import Code, hashes_of
from evaluation.audit.conduct import code, commit, conduct
from files import PROJECT
from runtime.records import Environment, Partial
from settings import Settings

SETTINGS = Settings()
MODULES = hashes_of(PROJECT)


def ran(**changes: object) -> Partial:
    """What the summary of a run of this code says."""
    facts = {"code_sha256": "0" * 64, "code_modules": MODULES, "observed": {"code": []}}
    return Partial.model_validate(facts | changes)


def test_the_same_modules_are_the_same_code():
    assert code(ran(), PROJECT, SETTINGS).passed
    assert code(None, PROJECT, SETTINGS).passed is None
    assert code(ran(code_sha256=None), PROJECT, SETTINGS).passed is None


def test_other_code_of_the_same_length_is_named():
    """A rate of 0.5 for 0.9 in test-time training had passed as the same code."""
    check = code(ran(code_modules=MODULES | {"evaluation/ttt/sgd.py": "1" * 64}), PROJECT, SETTINGS)
    assert check.passed is False and "evaluation/ttt/sgd.py" in check.found
    check = code(ran(code_modules=MODULES | {"notes.py": "1" * 64}), PROJECT, SETTINGS)
    assert check.passed is False and "notes.py" in check.found
    check = code(ran(observed={"code": ["evaluation/score.py"]}), PROJECT, SETTINGS)
    assert check.passed is False and "changed while it ran: evaluation/score.py" in check.found


def test_a_file_is_the_code_that_it_was_packed_of(tmp_path: Path):
    script = tmp_path / "train_gpt.py"
    script.write_text("one")
    digest = Code.of(script, SETTINGS).sha256
    assert code(ran(code_sha256=digest), script, SETTINGS).passed
    script.write_text("two")
    assert code(ran(code_sha256=digest), script, SETTINGS).passed is False


@pytest.mark.parametrize(("dirty", "passed"), [(None, None), (True, False), (False, True)])
def test_code_must_have_been_committed(dirty: bool | None, passed: bool | None):
    environment = Environment(world_size=1, devices=["cpu"], torch="2", git_dirty=dirty)
    assert commit(environment).passed is passed


def test_what_was_not_committed_is_named():
    facts = {"world_size": 1, "devices": ["cpu"], "torch": "2", "git_dirty": True}
    assert commit(Environment.model_validate(facts)).found.endswith("(git_dirty)")
    named = Environment.model_validate(facts | {"git_changed": "model/gpt.py"})
    assert commit(named).found.endswith("(git_dirty): model/gpt.py")


@pytest.mark.parametrize("kind", ["files", "network", "programs", "text"])
def test_a_process_that_left_its_folders_is_broken(kind: str):
    findings: dict[str, list[str]] = {"files": [], "network": [], "programs": [], "text": []}
    assert conduct("run", findings).passed
    assert conduct("run", None).passed is None
    assert conduct("run", {key: [] for key in findings if key != kind}).passed is False
    check = conduct("run", findings | {kind: ["a", "b", "c", "d"]})
    assert check.passed is False and f"{kind}: a, b, c and 1 more" in check.found
