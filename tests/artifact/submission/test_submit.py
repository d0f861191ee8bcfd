"""A contest folder: one file that trains from anywhere, and what several seeds are worth."""

import json
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from artifact.__main__ import main
from artifact.submission.bundle import bundle, modules, quoted
from artifact.submission.submit import Entry, Verdict, submit
from errors import InputError
from files import PROJECT
from tests.small import clean_environment

NETWORK = """
vocab_size = 300
num_layers = 2
model_dim = 32
num_heads = 4
num_kv_heads = 2
rope_dims = 4
xsa_last_n = 1
ve_layers = [1]
ve_dim = 8
bigram_vocab_size = 64
bigram_dim = 8
train_seq_len = 32
train_batch_tokens = 384
eval_seq_len = 32
eval_stride = 0
val_batch_size = 4096
val_max_tokens = 512
wallclock = 0.0
iterations = 3
warmup_steps = 1
calibration_tokens = 384
checkpoint_minutes = 0.0
device = "cpu"
backend = "reference"
"""


def python(
    *arguments: object, cwd: Path = PROJECT, **extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**extra),
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghij"), 4)) for _ in range(80)]
    for split, count in (("train", 100), ("val", 5)):
        texts = [json.dumps({"text": " ".join(draw.choice(words, 60))}) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(texts))
    arguments = ["--train", folder / "train.jsonl", "--val", folder / "val.jsonl"]
    arguments += ["--train-tokenizer", 300, "--out", folder / "data"]
    done = python("-m", "data", "prepare", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """The folder of a run from the tree, seed 1."""
    (data.parent / "run.toml").write_text(NETWORK)
    folder = data.parent / "run1"
    arguments = ["--config", data.parent / "run.toml", "--data", data, "--seed", 1]
    done = python(PROJECT / "train.py", *arguments, "--run-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def like(run: Path, to: Path, seed: int, bpb: float, **settings: object) -> Path:
    """A copy of a run as though it had had another seed and score."""
    shutil.copytree(run, to)
    lines = (run / "settings.toml").read_text().splitlines()
    changes = {"seed": seed} | settings
    lines = [line for line in lines if line.split(" = ")[0] not in changes]
    lines += [f"{name} = {json.dumps(value)}" for name, value in changes.items()]
    (to / "settings.toml").write_text("\n".join(lines))
    summary = json.loads((run / "summary.json").read_text())
    summary["scores"]["roundtrip, plain"]["bpb"] = bpb
    (to / "summary.json").write_text(json.dumps(summary))
    return to


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    """The contest folder of that run."""
    submit([run], run.parent / "records" / "first")
    return run.parent / "records" / "first"


def test_the_script_trains_from_anywhere_as_the_tree_did(
    data: Path, run: Path, folder: Path, tmp_path: Path
) -> None:
    alone = shutil.copy(folder / "train_gpt.py", tmp_path)
    (tmp_path / "data").mkdir()  # as the contest's repository has one, which is no module of ours
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError")
    arguments = ["--run-dir", tmp_path / "run"]
    done = python(alone, *arguments, cwd=Path("/"), DATA_PATH=str(data), SEED="1")
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((r / "summary.json").read_text()) for r in (run, tmp_path / "run"))
    for method, row in ours["scores"].items():
        assert theirs["scores"][method]["bpb"] == row["bpb"]
    size = Path(alone).stat().st_size
    assert theirs["code_files"] == {"train_gpt.py": size}
    assert theirs["total_bytes"] == size + theirs["artifact_bytes"]
    # A run of the script can be submitted itself, and makes the same script.
    submit([tmp_path / "run"], tmp_path / "again")
    assert (tmp_path / "again" / "train_gpt.py").read_bytes() == Path(alone).read_bytes()


def test_the_folder_says_what_it_holds(run: Path, folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md",
        "requirements.txt",
        "submission.json",
        "train_gpt.py",
        "train_seed1.jsonl",
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


def test_the_bundle_holds_all_modules_of_a_run_and_nothing_of_the_tools(run: Path) -> None:
    found = modules(PROJECT)
    ran = json.loads((run / "summary.json").read_text())["code_files"]
    assert {name for name in ran if name.endswith(".py")} <= found
    assert {"kernels/optimizer/muon.py", "kernels/attention/forward_hopper.py"} <= found
    assert not [name for name in found if name.startswith(("bench/", "tests/"))]
    assert "artifact/submission/submit.py" not in found


def test_scores_of_a_graph_travel_along(tmp_path: Path) -> None:
    scores = PROJECT / "knowledge/wordnet/fineweb-1024.scores"
    own = shutil.copy(scores, tmp_path / "mine")
    for given, names in (
        ("wordnet", {"fineweb-1024.scores", "builtin-python-3.11.7.scores"}),
        (str(own), {"mine.scores"}),
    ):
        space: dict[str, object] = {"__name__": "bundle"}
        exec(bundle(PROJECT, {"kg_scores": given, "seed": 5, "num_layers": 7}), space)
        packed, texts = space["PACKED"], space["TEXTS"]
        assert isinstance(packed, dict)
        assert isinstance(texts, dict)
        assert {Path(name).name for name in packed} == names
        preset = tomllib.loads(texts["presets/submission.toml"])
        assert preset == {"kg_scores": "wordnet", "num_layers": 7}


def test_text_that_cannot_be_quoted_is_refused() -> None:
    space: dict[str, dict[str, str]] = {"TEXTS": {}}
    text = 'a = "\\n\\u2581"  # \u2581\nb = """x"""\n'
    exec(quoted("a.py", text), space)
    assert space["TEXTS"] == {"a.py": text}
    for text in ("a = '''b'''\n", "a\\", "a = ''"):
        with pytest.raises(InputError, match=r"a\.py holds"):
            quoted("a.py", text)


def test_three_seeds_are_tested_against_a_score(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {4: 1.12, 2: 1.10, 3: 1.11}
    runs = [like(run, tmp_path / f"r{seed}", seed, bpb) for seed, bpb in values.items()]
    arguments = [*map(str, runs), "--out", str(tmp_path / "out"), "--against", "1.13"]
    assert main(["submit", *arguments]) == 0
    facts = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert list(facts["seed_results"]) == ["2", "3", "4"]
    assert facts["val_bpb"] == pytest.approx(1.11)
    assert facts["val_bpb_std"] == pytest.approx(0.01)
    # (1.11 - 1.13) / (0.01 / sqrt 3), two degrees of freedom
    assert facts["p_value"] == pytest.approx(t.cdf(-2 * 3**0.5, df=2))
    assert "p = 0.037" in capsys.readouterr().out
    page = (tmp_path / "out" / "README.md").read_text()
    assert "p = 0.037" in page
    assert "SEED=2 DATA_PATH=DIR torchrun --standalone --nproc_per_node=1 train_gpt.py" in page


def test_the_method_with_the_lowest_mean_counts() -> None:
    rows = [{"plain": 1.3, "sliding": 1.1}, {"plain": 1.0, "sliding": 1.15}]
    entries = [
        Entry(Path(), {}, {"scores": {f"roundtrip, {k}": {"bpb": v} for k, v in row.items()}}, {})
        for row in rows
    ]
    entries[0].summary["scores"]["raw, plain"] = {"bpb": 0.5}
    verdict = Verdict.of(entries, None)
    assert verdict.method == "roundtrip, sliding"
    assert verdict.mean == statistics.fmean([1.1, 1.15])


def spoil_summary(run: Path, **changes: object) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | changes))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("same seed", "two runs have the same seed"),
        ("other settings", "differ in matrix_lr"),
        ("no summary", "is no run that finished"),
        ("no steps", "no run that finished: it does not say steps"),
        ("other artifact", "summary is of another artifact"),
        ("other code", "ran on another train.py"),
        ("too large", r"over\); run it by train_gpt.py, or with --size-limit"),
        ("out exists", "exists; choose another"),
    ],
)
def test_runs_that_make_no_submission_are_refused_and_leave_nothing(
    run: Path, tmp_path: Path, harm: str, words: str
) -> None:
    changes = {"matrix_lr": 0.5} if harm == "other settings" else {}
    other = like(run, tmp_path / "other", 1 if harm == "same seed" else 2, 1.0, **changes)
    if harm == "no summary":
        (other / "summary.json").unlink()
    elif harm == "no steps":
        summary = json.loads((other / "summary.json").read_text())
        del summary["steps"]
        (other / "summary.json").write_text(json.dumps(summary))
    elif harm == "other artifact":
        (other / "artifact.bin").write_bytes(b"")
    elif harm == "other code":
        spoil_summary(other, code_files={"train.py": 5})
    elif harm == "too large":
        (other / "artifact.bin").write_bytes(bytes(15_900_000))
        spoil_summary(other, artifact_bytes=15_900_000)
    elif harm == "out exists":
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words):
        submit([run, other], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
