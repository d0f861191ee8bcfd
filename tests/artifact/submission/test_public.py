"""Modules whose shared names are short do what they did."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from artifact.submission.bundle import contents
from artifact.submission.packed import AUDITOR, small
from artifact.submission.public import WORD, Names, renamed
from files import PROJECT
from settings import Settings

MODULES = {
    "parts/__init__.py": "",
    "parts/shapes.py": """
from typing import NamedTuple
from pydantic import BaseModel

LIMIT, OTHER = 3, 4
TOTAL = 0
MODE = "quoted_word"

class Pair(NamedTuple):
    left: int
    right_side: int = LIMIT

class Model(BaseModel):
    field_name: int = 0

def right_side(): return 5

def area_of(pair): return pair.left * pair.right_side

def given_by_name(value): return value

def registered(function): return function

@registered
def command(): return command.__name__

def nine(): return 0xface

def xface(): return 1

def ceil(): return xface()

def quoted_word(): return f"{area_of(Pair(1))} of {MODE}\\nine {nine()}"

def add_up():
    global TOTAL
    TOTAL += 1
    return TOTAL
""",
    "main.py": """
from math import ceil, floor as area_of_floor, sqrt
import parts.shapes
from parts.shapes import LIMIT, MODE, Model, Pair, add_up, area_of, command, quoted_word
from parts.shapes import given_by_name as renamed_here, right_side

def sqrt_of(value): return sqrt(value)

def main(area_ofs=2):
    local = [area_of(each) for each in (Pair(1), Pair(2, right_side=2))]
    print(local, LIMIT, MODE, Model.__name__, command(), quoted_word(), add_up(), add_up())
    print(parts.shapes.OTHER, renamed_here(value=1), right_side(), area_ofs, sqrt_of(4), ceil(1.5))

main()
""",
}


def printed(texts: dict[str, str], folder: Path) -> str:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return subprocess.check_output([sys.executable, folder / "main.py"], text=True)


def test_modules_do_the_same_with_short_names(tmp_path: Path) -> None:
    names = {name: Names.of(text, {"parts", "main"}) for name, text in MODULES.items()}
    short = renamed(MODULES, names, "calls add_up from outside")
    assert printed(short, tmp_path / "short") == printed(MODULES, tmp_path / "long")
    before, after = (set(WORD.findall("".join(each.values()))) for each in (MODULES, short))
    assert before - after == {"LIMIT", "MODE", "Pair", "area_of", "registered", "sqrt_of", "xface"}


def test_short_names_are_new_and_no_words_of_the_language() -> None:
    text = "".join(f"def function_{number}(): return at, be\n" for number in range(800))
    short = renamed({"a.py": text}, {"a.py": Names.of(text, {"a"})}, "")["a.py"]
    made = [node.name for node in ast.parse(short).body if isinstance(node, ast.FunctionDef)]
    assert len(set(made)) == 800 and {len(name) for name in made} == {2}
    assert not {"at", "be", "if", "in", "or", "id"} & set(made)


def test_names_of_the_project_are_exchanged_one_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    files = contents(PROJECT, Settings(swarm_agents="frontier", readout=True, lqer_rank=1))
    short = small(files)
    monkeypatch.setattr("artifact.submission.packed.renamed", lambda texts, *_: texts)
    long = small(files)
    pairs = set()
    for name, text in long.items():
        assert WORD.sub("", text) == WORD.sub("", short[name])
        pairs |= {*zip(WORD.findall(text), WORD.findall(short[name]), strict=True)}
    assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)
    exchanged = {old for old, new in pairs if old != new}
    assert len(exchanged) > 500
    assert not exchanged & {*WORD.findall((PROJECT / AUDITOR).read_text())}
    strings = (
        node.value
        for name, text in long.items()
        if name.endswith(".py")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert not exchanged & {word for string in strings for word in WORD.findall(string)}
