"""Every command of README, docs and --help, on a poor machine: none ends in a traceback.

The machine has no GPU, no network, 60 columns, a home that nobody can write, and the variables of
a notebook. Placeholders stand for a small corpus and a run on it. What would train or time for
minutes gets ``--help`` or a small number.
"""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from files import PROJECT
from murmuration import COMMANDS
from tests import warm
from tests.small import clean_environment

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "kernels/README.md", "kernels/*/README.md")
POOR = {
    "COLUMNS": "60",
    "HOME": "/proc/home",  # nobody can make this folder, not even root
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "CUDA_VISIBLE_DEVICES": "",
    "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}
BLOCK = re.compile(
    r"^    (?:[A-Z_]+=\S+ )*((?:\.venv/bin/)?(?:python|torchrun|murmuration) .*)$", re.MULTILINE
)
QUOTED = re.compile(r"`((?:python -m|python train\.py|train\.py|murmuration) [^`]+)`")
# What takes minutes, and what is done in its place: arguments that replace all others.
SMALL = {
    "data builtin": "--help",
    "artifact submit": "none --out DIR",  # tests/artifact/submission runs it
    "evaluation ttt": "ARTIFACT --data DIR --seq-len 32 --max-tokens 64",
    "evaluation audit": "--help",  # tests/evaluation/audit runs it
    "bench against": "bf9e9a1",
    "bench parallel": "",
    "bench startup": "",
    "bench tune_ttt": "",
    "bench sprint": "--data DIR --seeds 1 -- --num-layers 0",
    "bench tables": "--check",
}
# Not run here: they test or time this machine, or need what only a submission has.
LEFT_OUT = ("pytest", "tests.", "train_gpt.py")


def commands() -> Iterator[str]:
    """Yield the commands of the pages as they stand there, without comments."""
    for pattern in PAGES:
        for page in sorted(PROJECT.glob(pattern)):
            if page.name != "log.md":
                text = page.read_text().replace("\\\n", " ")
                found = BLOCK.findall(text) + QUOTED.findall(text)
                yield from (each.split(" #")[0].strip() for each in found)


def program(command: str) -> list[str] | None:
    """Return what python is given to run a command; None: it is not run here."""
    words = shlex.split(re.sub(r"\[[^]]*\]", "", command))  # without what is optional
    if words[0].endswith("torchrun"):
        return ["train.py", "--preset", "tiny", "--explain"] if "train.py" in words else None
    while words[0].endswith(("python", "-m", "murmuration")):
        words = words[1:]
    return None if words[0].startswith(LEFT_OUT) else words


def small(words: list[str]) -> list[str]:
    """Return a command with small numbers in place of those that take minutes."""
    name = " ".join(words[:2])
    if name not in SMALL and words[0] == "bench":
        return [*words[:2], "--help"]
    return [*name.split(), *shlex.split(SMALL[name])] if name in SMALL else words


FOUND = dict.fromkeys(tuple(small(words)) for each in commands() if (words := program(each)))
HELPED = {words for words in FOUND if words[-1] == "--help"}  # see the last test


@pytest.fixture(scope="module")
def places(corpus: Path, straight: Path, tmp_path_factory) -> dict[str, str]:
    """Return what placeholders of the pages stand for."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "nodes.jsonl").write_text('{"id": 1, "label": "abc"}\n{"id": 2, "label": "bcd"}\n')
    (folder / "edges.jsonl").write_text('{"source": 1, "relation": "is_a", "target": 2}\n')
    (folder / "list.json").write_text("{}")
    artifact, data = str(straight / "artifact.bin"), str(corpus / "data")
    model = str(corpus / "data" / "tokenizer.model")
    return {
        "runs/.../artifact.bin": artifact,
        "RUNS/sprint--1337/artifact.bin": artifact,
        "ARTIFACT": artifact,
        "corpora/builtin": data,
        "corpora/fineweb": data,
        "corpora/mine": data,
        "DIR": data,
        "MODEL": model,
        "my.model": model,
        "fineweb_1024_bpe.model": model,
        **dict.fromkeys(("RUN", "RUN...", "runs/...", "runs/A", "runs/B", "runs/C"), str(straight)),
        **dict.fromkeys(("a.jsonl.zst", "TRAIN.jsonl.xz"), str(corpus / "train.jsonl")),
        **dict.fromkeys(("c.txt", "VAL.jsonl.xz"), str(corpus / "val.jsonl")),
        "JSON": str(folder / "list.json"),
        "KIND": "divergence",
        "--nodes": str(folder / "nodes.jsonl"),
        "--edges": str(folder / "edges.jsonl"),
    }


def filled(words: Sequence[str], places: dict[str, str], out: Path) -> list[str]:
    """Return a command with files for its placeholders; what it writes goes to ``out``."""
    found: list[str] = []
    for word in words:
        before = found[-1] if found else ""
        if before == "--out":
            found.append(str(out / "made"))
        elif before in ("--nodes", "--edges"):
            found.append(places[before])
        elif before == "--resume":
            found.append("none")  # a finished run would be scored again
        else:
            found.append(places.get(word, word))
    return found


def ran(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the project in a folder that is not the project's."""
    first = [str(PROJECT / words[0])] if words[0].endswith(".py") else ["-m", words[0]]
    poor = clean_environment(**POOR, PYTHONPATH=str(PROJECT))
    if words[0] == "runtime.plot":  # matplotlib reads its variable when it is imported
        command = [sys.executable, *first, *words[1:]]
        return subprocess.run(command, cwd=folder, env=poor, capture_output=True, text=True)
    return warm.run(*first, *words[1:], environment=poor, folder=folder)


def test_the_pages_have_commands_of_every_program():
    programs = {words[0] for words in FOUND}
    started = {otherwise.split()[-1] for _, otherwise, _ in COMMANDS.values()}
    assert started <= programs


@pytest.mark.parametrize("words", [each for each in FOUND if each not in HELPED], ids=" ".join)
def test_no_command_of_the_pages_ends_in_a_traceback(words, places, tmp_path):
    done = ran(filled(words, places, tmp_path), tmp_path)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode in (0, 1, 2), said
    if done.returncode == 2:
        assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr, said


def test_a_run_on_a_poor_machine_ends_well(corpus: Path, tmp_path: Path):
    """Its own interpreter: matplotlib reads its variables when it is imported."""
    poor = clean_environment(**POOR, TMPDIR=str(tmp_path / "none"), LC_ALL="C", TERM="dumb")
    given = ["--config", corpus / "run.toml", "--data", corpus / "data", "--run-dir", "run"]
    short = ["--iterations", "2", "--calibration-tokens", "0", "--eval-stride", "0"]
    command = [sys.executable, PROJECT / "train.py", *given, *short]
    done = subprocess.run(command, cwd=tmp_path, env=poor, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "loss.png").exists()
    swarm = done.stdout.split("roundtrip, plain", 1)[1].split("exported:")[0].splitlines()[1:]
    assert "".join(swarm).startswith("The swarm changed nothing") and max(map(len, swarm)) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_ends_in_a_traceback(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    module = importlib.import_module(COMMANDS[name][0])
    for command in ([], *([each] for each in subcommands(module))):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert module.main([*command, "--help"]) == 0
        assert "Usage: " in out.getvalue()
        assert max(map(len, out.getvalue().splitlines())) <= 60 or name == "train"


def subcommands(module) -> list[str]:
    """Return the commands of a program."""
    if hasattr(module, "FOLDER"):
        return list(module.COMMANDS)
    from command_line import commands as known

    return known(module.app)
