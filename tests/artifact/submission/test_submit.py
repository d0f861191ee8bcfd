"""A contest folder: one file that trains from anywhere, and what several seeds are worth."""

import ast
import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from artifact.submission.asked import Judging
from artifact.submission.bundle import contents, modules, quoted, token_scores
from artifact.submission.first_steps import first_steps
from artifact.submission.submit import requirements
from artifact.submission.submit import submit as submitted
from errors import InputError
from files import PROJECT
from settings import Settings
from tests.artifact.submission.installed import environment
from tests.artifact.submission.runs import like, python, spoil
from tests.small import clean_environment

UNAUDITED = Judging(audit=False)


def submit(runs: list[Path], out: Path) -> None:
    submitted(runs, out, judging=UNAUDITED)


@pytest.fixture(scope="module")
def submission(run: Path) -> tuple[Path, list[str]]:
    """The contest folder of that run, and the lines that were printed while it was made.

    Its script takes its first steps where only the folder's requirements are installed.
    """
    clean, out = environment(run.parent / "clean", requirements()), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "executable", str(clean))
        submit([run], run.parent / "records" / "first")
    return run.parent / "records" / "first", out.getvalue().splitlines()


@pytest.fixture(scope="module")
def folder(submission: tuple[Path, list[str]]) -> Path:
    return submission[0]


def test_each_step_is_said_as_it_begins(submission: tuple[Path, list[str]]) -> None:
    """It was silent for two minutes, which was twice taken for a hang."""
    assert submission[1] == [
        "checking the runs",
        "packing the code",
        "checking the runs' data, scores and seconds",
        "first run of the script, from / on a CPU",
        "second run at the same time, with other validation tokens",
        "scoring the first run's artifact",
        "waiting for the second run, whose artifact must be the same",
        "writing the folder",
    ]


def test_the_audit_is_said_before_it_starts(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(InputError, match="its audit did not end"):
        submitted([run], tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == "auditing the artifact of seed 1"
    assert not [*tmp_path.iterdir()]


def test_the_clean_environment_has_no_more_than_the_requirements(run: Path, folder: Path) -> None:
    assert (folder / "requirements.txt").read_text() == requirements()
    code = "import importlib.util; print(importlib.util.find_spec('pytest'), end='')"
    clean = run.parent / "clean/bin/python"
    assert subprocess.check_output([clean, "-c", code], text=True) == "None"


def test_a_vocabulary_of_byte_pairs_is_refused():
    with pytest.raises(InputError, match="needs a SentencePiece model"):
        first_steps(b"", Settings(vocab_size=50257, bos_id=50256))


def test_the_script_trains_from_anywhere_as_the_tree_did(
    data: Path, run: Path, folder: Path, tmp_path: Path
) -> None:
    alone = shutil.copy(folder / "train_gpt.py", tmp_path)
    (tmp_path / "data").mkdir()  # as the contest's repository has one, which is no module of ours
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError")
    arguments = ["--run-dir", tmp_path / "run"]
    # Not a fork, because what a run opens is listed.
    variables = clean_environment(DATA_PATH=str(data), SEED="1")
    command = [sys.executable, alone, *arguments]
    done = subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # It blamed a module for a picture that it was packed without.
    assert "loss.png" not in done.stdout and "loss.png" not in done.stderr
    ours, theirs = (json.loads((r / "summary.json").read_text()) for r in (run, tmp_path / "run"))
    for method, row in ours["scores"].items():
        assert theirs["scores"][method]["bpb"] == row["bpb"]
    size = Path(alone).stat().st_size
    assert theirs["code_files"] == {"train_gpt.py": size}
    assert theirs["total_bytes"] == size + theirs["artifact_bytes"]
    # A run of the script can be submitted itself, and makes the same script.
    submit([tmp_path / "run"], tmp_path / "again")
    assert (tmp_path / "again" / "train_gpt.py").read_bytes() == Path(alone).read_bytes()
    # The script scores an artifact, without the training shards.
    only_val = shutil.copytree(data, tmp_path / "val", ignore=shutil.ignore_patterns("*train*"))
    artifact = shutil.copy(run / "artifact.bin", tmp_path)
    done = python(alone, "--evaluate", artifact, "--data", only_val, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    assert f"bpb {ours['scores']['roundtrip, plain']['bpb']:.6f}" in done.stdout


def test_the_folder_says_what_it_holds(run: Path, folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md",
        "requirements.txt",
        "submission.json",
        "train_gpt.py",
        "train_gpt_readable.py",
        "train_seed1.log",
        "audit.txt",
    }
    facts = json.loads((folder / "submission.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    size = (folder / "train_gpt.py").stat().st_size
    assert facts["bytes_code"] == size
    assert facts["bytes_total"] == size + summary["artifact_bytes"]
    assert facts["val_bpb"] == summary["scores"]["roundtrip, plain"]["bpb"]
    assert facts["p_value"] is None
    assert [path.name for path in folder.parent.iterdir()] == ["first"]


def test_triton_finds_the_source_of_a_bundled_kernel(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    program = (
        "import inspect, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import train_gpt, torch\n"
        "sys.meta_path.insert(0, train_gpt.Sources(Path('/nowhere')))\n"
        "from kernels.norm import norm\n"
        "assert norm.__file__ == '/nowhere/kernels/norm/norm.py'\n"
        "assert '@triton.jit' in inspect.getsource(norm)\n"
        "x = torch.randn(3, 16)\n"
        "found = norm.norm(x, scale=1.0, eps=1e-6)[1]\n"
        "from kernels.norm import reference\n"
        "torch.testing.assert_close(found, reference.norm(x, scale=1.0, eps=1e-6)[1])\n"
        "print('as the reference')"
    )
    done = python("-c", program, cwd=tmp_path, TRITON_INTERPRET="1")
    assert done.stdout == "as the reference\n", done.stderr


def test_the_bundle_holds_all_modules_of_a_run_and_nothing_of_the_tools() -> None:
    found = modules(PROJECT)
    assert {"train.py", "evaluation/subject.py", "model/gpt.py", "settings/run.py"} <= found
    assert {"kernels/optimizer/muon.py", "kernels/attention/forward_hopper.py"} <= found
    assert not [name for name in found if name.startswith(("bench/", "tests/"))]
    assert "artifact/submission/submit.py" not in found


def test_scores_of_a_graph_travel_along(tmp_path: Path) -> None:
    scores = PROJECT / "knowledge/wordnet/fineweb-1024.scores"
    own = shutil.copy(scores, tmp_path / "mine.scores")
    for given, names in (
        ("wordnet", {"fineweb-1024.scores", "builtin-python-3.11.7.scores"}),
        (str(own), {"mine.scores"}),
    ):
        files = contents(PROJECT, Settings(kg_scores=given, seed=5, num_layers=7, ve_layers=[6]))
        packed = {name: text for name, text in files.items() if name.endswith(".scores")}
        assert {Path(name).name for name in packed} == names
        assert base64.b85decode(packed.popitem()[1]).startswith(b"MKG1")
        preset = tomllib.loads(files["presets/submission.toml"])
        assert (preset["kg_scores"], preset["num_layers"]) == ("wordnet", 7)
        assert not {"seed", "data", "tokenizer", "run_dir", "preset"} & preset.keys()


def test_the_readable_file_shows_every_module_as_it_is(folder: Path) -> None:
    text = (folder / "train_gpt_readable.py").read_text()
    for name in ("train.py", "model/gpt.py", "kernels/attention/forward_hopper.py"):
        assert (PROJECT / name).read_text() in text
    done = python(folder / "train_gpt_readable.py", "--help", cwd=Path("/"))
    assert done.returncode == 0 and "--num-layers" in done.stdout, done.stderr


def test_the_requirements_name_every_package_that_the_file_imports() -> None:
    known = {re.split("[=>;]", line)[0] for line in requirements().splitlines()}
    tops = {path.stem for path in PROJECT.iterdir()}
    found: set[str] = set()
    for name in modules(PROJECT):
        for node in ast.walk(ast.parse((PROJECT / name).read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    # Both packages of flash attention are used only where installed.
    own = found - tops - set(sys.stdlib_module_names)
    assert {name for name in own if not name.startswith("flash_attn")} <= known


STRANGE = 'x"]="";__import__("os").system("id>"+chr(47)+"tmp"+chr(47)+"OWNED");PACKED["y.scores'


def test_a_name_that_a_run_s_folder_chooses_is_no_code(run: Path, tmp_path: Path) -> None:
    """F1: the name of a file of token scores became a statement of the script."""
    scores = PROJECT / "knowledge/wordnet/fineweb-1024.scores"
    for name in (STRANGE, "a b", "\x1b[31m", "x'"):
        place = shutil.copy(scores, tmp_path / name)
        with pytest.raises(InputError, match="rename it"):
            token_scores(str(place))
    stranger = like(run, tmp_path / "stranger", 2, 1.0, kg_scores=str(tmp_path / STRANGE))
    with pytest.raises(InputError, match="rename it"):
        submit([stranger], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_token_scores_are_published(run: Path, tmp_path: Path) -> None:
    """F2: any file of the submitter's went into the script under the name of token scores."""
    (tmp_path / "private.key").write_text("a secret of mine")
    stranger = like(run, tmp_path / "stranger", 2, 1.0, kg_scores=str(tmp_path / "private.key"))
    with pytest.raises(InputError, match="not a file of token scores"):
        submit([stranger], tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["log.jsonl", "summary.json", "environment.json", "settings.toml", "artifact.bin"]
)
def test_a_link_in_a_run_s_folder_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    """F2: a log that is a link published the file that it points to."""
    other = like(run, tmp_path / "other", 2, 1.0)
    (tmp_path / "target").write_bytes((other / name).read_bytes())
    (other / name).unlink()
    (other / name).symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match=f"{name}: is a link"):
        submit([other], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("environment.json", {"devices": []}),
        ("environment.json", {"devices": "x"}),
        ("environment.json", {"world_size": "1"}),
        ("summary.json", {"code_bytes": "x"}),
        ("summary.json", {"steps": [1]}),
        ("summary.json", {"scores": {"roundtrip, plain": {"bpb": None}}}),
        ("summary.json", {"scores": {"roundtrip, plain": 1.0}}),
    ],
)
def test_a_file_of_another_form_is_one_line(
    run: Path, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    """F9: each of these ended in a traceback."""
    other = like(run, tmp_path / "other", 2, 1.0)
    spoil(other, name, **changes)
    with pytest.raises(InputError, match=rf"no run that finished: .*{name}: ") as refused:
        submit([other], tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_text_that_cannot_be_quoted_is_refused() -> None:
    space: dict[str, dict[str, str]] = {"FILES": {}}
    text = 'a = "\\n\\u2581"  # \u2581\nb = """x"""\n'
    exec(quoted("a.py", text), space)
    assert space["FILES"] == {"a.py": text}
    for text in ("a = '''b'''\n", "a\\", "a = ''"):
        with pytest.raises(InputError, match=r"a\.py holds"):
            quoted("a.py", text)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("same seed", "two runs have the same seed"),
        ("other settings", "differ in matrix_lr"),
        ("no summary", "is no run that finished: `train.py --resume .*/other` finishes it"),
        ("no run", "no run that finished: it has no log; give a run's folder"),
        ("diverged", "other: training diverged; lower the learning rates"),
        ("no steps", "no run that finished: .*summary.json: steps: Field required"),
        ("other artifact", "summary is of another artifact"),
        ("other code", "ran on other code"),
        ("unknown code", "ran on other code"),
        ("too large", r"over\); run it again"),
        ("out exists", "exists; choose another"),
    ],
)
def test_runs_that_make_no_submission_are_refused_and_leave_nothing(
    run: Path, tmp_path: Path, harm: str, words: str
) -> None:
    changes = {"matrix_lr": 0.5} if harm == "other settings" else {}
    other = like(run, tmp_path / "other", 1 if harm == "same seed" else 2, 1.0, **changes)
    if harm in ("no summary", "no run"):
        (other / "summary.json").unlink()
        if harm == "no run":
            (other / "log.jsonl").unlink()
    elif harm == "diverged":
        spoil(other, "summary.json", diverged=True)
    elif harm == "no steps":
        summary = json.loads((other / "summary.json").read_text())
        del summary["steps"]
        (other / "summary.json").write_text(json.dumps(summary))
    elif harm == "other artifact":
        (other / "artifact.bin").write_bytes(b"")
    elif harm == "other code":
        spoil(other, "summary.json", code_sha256="0" * 64)
    elif harm == "unknown code":
        spoil(other, "summary.json", code_sha256=None)
    elif harm == "too large":
        (other / "artifact.bin").write_bytes(bytes(15_900_000))
        spoil(other, "summary.json", artifact_bytes=15_900_000)
    elif harm == "out exists":
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words):
        submit([run, other], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file/out", "no folder can be made in .*file"),
        ("link/out", "no folder can be made in .*link"),
        ("link", "exists; choose another"),
        ("closed/a/out", "no folder can be made in .*closed"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    """It was refused once the script had trained and the audit had ended."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/nowhere")
    (tmp_path / "closed").mkdir()
    # Whoever runs the tests may write anywhere, as root may.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    with pytest.raises(InputError, match=words):
        submit([tmp_path / "no run"], tmp_path / place)
