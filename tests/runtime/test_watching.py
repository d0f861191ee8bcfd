"""What the hook sees of a process, and what it leaves out."""

import json
import subprocess
import sys
import textwrap

import pytest

from files import PROJECT
from runtime import watching
from tests.small import clean_environment

START = f"""
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("watching", {str(PROJECT / "runtime/watching.py")!r})
watching = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watching)
found = {{}}
"""
HONEST = """
import collections, dataclasses, helper, os, subprocess, tempfile
dataclasses.make_dataclass("Pair", ["left", "right"])
collections.namedtuple("Pair", "left right")
subprocess.run(["git", "--version"], capture_output=True)
open("DATA/fineweb_val_000000.bin").read()
open("CODE/presets/a.toml").read()
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/x", "w").close()
tempfile.TemporaryFile().close()
with tempfile.NamedTemporaryFile("w", suffix=".ptx", delete=False) as source:
    pass
beside = source.name + ".o"  # Triton's assembler makes such a file
open(beside, "w").close()
open(beside).read()
for name in (beside, source.name):
    os.remove(name)
"""
CASES = {
    "socket": ("import socket; socket.socket(type=2)", "network", "socket.__new__"),
    "name": ("import socket; socket.getaddrinfo('127.0.0.1', 80)", "network", "127.0.0.1"),
    "request": (
        "import urllib.request\ntry: urllib.request.urlopen('http://127.0.0.1:9')\n"
        "except OSError: pass",
        "network",
        "socket.connect(('127.0.0.1', 9))",
    ),
    "notes": ("open('CODE/notes.txt').read()", "files", "code/notes.txt"),
    "read": ("import os; os.close(os.open('OTHER/other.txt', 0))", "files", "other.txt"),
    "written": ("open('kept', 'w').close()", "files", "kept"),
    "temporary": (
        "import os, tempfile; name = tempfile.gettempdir() + '/not_made'\n"
        "open(name, 'w').close(); os.remove(name)",
        "files",
        "/not_made",
    ),
    "train": ("open('DATA/fineweb_train_000000.bin').close()", "files", "train_000000.bin"),
    "exec": ("exec('x = 1')", "text", "exec in "),
    "compile": ("compile('x = 1', 'DATA/a.py', 'exec')", "text", "compile in "),
    "system": ("import os; os.system('true')", "programs", "true in "),
    "run": ("import subprocess; subprocess.run(['true'])", "programs", "true in "),
    "many": ("for n in range(1200): open(f'n{n}', 'w').close()", "files", "more than 1000"),
    # Last, because a module stays imported.
    "module": ("sys.path.append('OTHER'); import strange", "files", "module "),
}
NOTHING = {"files": [], "network": [], "programs": [], "text": []}


def in_function(name: str, text: str, training: bool = False) -> str:
    install = f"watching.install([Path('CODE')], [Path('DATA')], training={training})"
    body = textwrap.indent(text.strip(), "    ")
    return f"def {name}():\n{body}\n{install}\n{name}()\nfound[{name!r}] = watching.seen()\n"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What is seen of each case, all in one process."""
    folder = tmp_path_factory.mktemp("watching")
    code, data = folder / "code", folder / "data"
    (code / "presets").mkdir(parents=True)
    data.mkdir()
    names = ["code/presets/a.toml", "code/notes.txt", "code/helper.py", "other.txt", "strange.py"]
    for name in (*names, "data/fineweb_val_000000.bin", "data/fineweb_train_000000.bin"):
        (folder / name).write_text("")
    functions = [in_function("honest", HONEST), in_function("training", CASES["train"][0], True)]
    functions += [in_function(f"f_{name}", text) for name, (text, *_) in CASES.items()]
    program = "\n".join([START, *functions, "print(json.dumps(found))"])
    for name, place in {"CODE": code, "DATA": data, "OTHER": folder}.items():
        program = program.replace(name, str(place))
    (code / "main.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(code / "main.py")],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_honest_code_does_is_no_finding(seen: dict[str, dict[str, list[str]]]):
    assert seen["honest"] == NOTHING


@pytest.mark.parametrize("name", CASES)
def test_what_lies_outside_is_found(seen: dict[str, dict[str, list[str]]], name: str):
    _, kind, words = CASES[name]
    found = seen[f"f_{name}"]
    assert any(words in each for each in found[kind]), found


def test_training_opens_training_shards(seen: dict[str, dict[str, list[str]]]):
    assert seen["training"] == NOTHING


def test_many_files_are_kept_in_part(seen: dict[str, dict[str, list[str]]]):
    assert len(seen["f_many"]["files"]) == 1001


def test_nothing_is_seen_before_it_begins():
    assert watching._watch is not None or watching.seen() == {}


def test_packages_of_an_environment_behind_a_link_are_pythons_own(tmp_path, monkeypatch) -> None:
    """More than 1,000 files of .venv, a link, were then found in every run."""
    (tmp_path / "environment").mkdir()
    link = tmp_path / "code" / ".venv"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "environment")
    monkeypatch.setattr(sys, "prefix", str(link))
    watch = watching.Watch([link.parent], [], training=False)
    watch.note("files", "open", (str(link / "data.txt"), "r", 0))
    assert not watch.things["files"]
    watch.note("files", "open", (str(link / ".." / "data.txt"), "r", 0))
    assert len(watch.things["files"]) == 1
