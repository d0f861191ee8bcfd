"""The bytes of code that a run is charged for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from artifact.submission.code_size import OverBudget, budget_line, check_total, code_bytes
from files import PROJECT


def charged(project: Path, cwd: Path, *arguments: str) -> dict[str, int]:
    """What a run of ``project/train.py`` counts, started in ``cwd``."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": f"{project}:{PROJECT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    files = {
        "train.py": (
            "import json, pathlib, helper.deep, installed\n"
            "from artifact.submission.code_size import code_bytes\n"
            "print(json.dumps(code_bytes(pathlib.Path(__file__).parent)))\n"
        ),
        "helper/deep.py": "DEPTH = 2\n",
        "helper/unused.py": "never imported",
        "presets/seed.toml": "a = 1\n",
        ".venv/site-packages/installed.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    search = f"import sys\nsys.path.append({str(root / '.venv/site-packages')!r})\n"
    (root / "helper/__init__.py").write_text(search)
    return root


def test_counts_the_script_its_helpers_and_presets_alone(project: Path, tmp_path: Path) -> None:
    names = ["helper/__init__.py", "helper/deep.py", "presets/seed.toml", "train.py"]
    expected = {name: (project / name).stat().st_size for name in names}
    assert charged(project, tmp_path, str(project / "train.py")) == expected
    assert charged(project, project, "train.py") == expected


def test_counts_this_projects_own_modules() -> None:
    """A helper module is counted, though no line of train.py is in it."""
    counted = code_bytes(PROJECT)
    for name in ("artifact/submission/code_size.py", "tests/artifact/submission/test_code_size.py"):
        assert counted[name] == (PROJECT / name).stat().st_size
    assert not [name for name in counted if "site-packages" in name]


def test_leaves_out_an_environment_inside_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(PROJECT / "artifact"))
    assert not [name for name in code_bytes(PROJECT) if name.startswith("artifact/")]


def test_the_limit_itself_is_within_it() -> None:
    check_total(1_000, 15_999_000)


def test_over_budget_names_every_number() -> None:
    with pytest.raises(OverBudget) as caught:
        check_total(123_456, 15_900_000)
    assert str(caught.value) == (
        "code 123,456 + artifact 15,900,000 = 16,023,456 of 16,000,000 bytes (23,456 over)"
    )


def test_budget_line_says_what_is_left() -> None:
    assert budget_line(10, 20, limit=100) == "code 10 + artifact 20 = 30 of 100 bytes (70 left)"
