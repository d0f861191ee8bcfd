"""Modules that are stripped do what they did."""

import ast
import inspect
import sys
import types

from artifact.submission.shorten import shorten, shorten_private
from artifact.submission.strip import documented, shared_names, strip
from artifact.submission.tight import tight
from files import PROJECT

MODULE = '''
"""A module."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
else:
    Path = str

total: int = 0  # a comment


@dataclass
class Pair:
    """Two."""

    left: int
    right: int = 2

    def added(self, more: int) -> int:
        """Add."""
        partial: int = self.left + self.right
        return partial + more


def command(function: Callable) -> Callable:
    return function


@command
def read(first: int, second: str = "x") -> str:
    """Read by a command line."""
    return f"{first}{second}"


class Shape:
    @property
    def sides(self) -> int:
        """Return how many."""
        return 3

    @classmethod
    def of(cls, first: int) -> "Shape":
        """Make one."""
        return cls()


def compute(items: list[int], scale: int = 3) -> Iterator[int]:
    """Compute."""
    global total
    total = sum(items)
    result: list[int]
    result = [item * scale for item in items if (doubled := item * 2) > 2]
    try:
        total = len([]) // 0
    except ZeroDivisionError as error:
        result.append(len(str(error)))
    for index, (value, other) in enumerate(zip(result, items + [9], strict=False)):
        def inner(scale: int, *rest: int) -> int:
            value_inside = value + scale
            return value_inside + sum(rest) + index + other
        yield inner(scale=1)
    match {"kind": doubled}:
        case {"kind": found}:
            yield found
    yield functools.reduce(lambda left, right: left + right, result)


def silent() -> None:
    """Do nothing."""
'''


def run(text: str) -> dict:
    module = types.ModuleType("stripped")
    sys.modules["stripped"] = module  # where dataclasses look
    exec(text, module.__dict__)
    return vars(module)


def test_a_stripped_module_computes_the_same():
    small = strip(MODULE)
    plain, stripped = run(MODULE), run(small)
    assert list(stripped["compute"]([1, 2, 3])) == list(plain["compute"]([1, 2, 3]))
    assert stripped["total"] == plain["total"] == 6
    assert stripped["Pair"](1).added(more=2) == 5
    assert stripped["silent"]() is None
    assert stripped["Path"] is str


def test_what_only_people_read_is_gone_and_what_programs_read_is_there():
    small = strip(MODULE)
    for text in (
        "comment",
        "Compute",
        "A module",
        "Add.",
        "Do nothing",
        "Return how many",
        "Make one",
        "first: int",
        "Iterator[int]",
        "value_inside",
    ):
        assert text not in small
    read = run(small)["read"]
    assert read.__doc__ == "Read by a command line."
    assert str(inspect.signature(read)) == "(first: 'int', second: 'str' = 'x') -> 'str'"
    keep = documented([MODULE, "print(Pair.__doc__)"])
    assert keep == {"Pair"}
    assert "Two." in strip(MODULE, keep) and "Two." not in small


def test_a_kernel_keeps_the_annotations_that_its_compiler_reads():
    text = (
        "@triton.jit\ndef kernel(x, BLOCK: tl.constexpr):\n    'Doc.'\n    half: tl.constexpr = 1\n"
    )
    small = strip(text)
    assert "BLOCK:tl.constexpr" in small and ":tl.constexpr=1" in small and "Doc" not in small


def test_names_that_mean_something_outside_stay():
    text = (
        "import os\nsize = 3\n"
        "def f(path, size_of=1):\n"
        "    import json as reader\n"
        "    list_of = [size for size in (1, 2)]\n"
        "    def helper(value):\n        nonlocal list_of\n        return value\n"
        "    return os, size, list_of, reader, helper, path\n"
        "def g():\n    name = 1\n    return locals()\n"
        "@triton.jit\ndef h():\n    block = 1\n    return block\n"
    )
    tree = shorten(ast.parse(text))
    assert ast.unparse(tree) == ast.unparse(ast.parse(text))


DECLARED = '''
class Loader(Protocol[T]):
    """Load."""

    size: int
    """In bytes."""

    def load(self, path: str) -> bytes:
        """Load it."""
        ...


class Half(Protocol):
    def load(self) -> int:
        return 5


class Pair(NamedTuple):
    left: int
    """The first."""
    right: int = 2
'''


def test_of_what_is_only_declared_nothing_is_left():
    head = "from typing import NamedTuple, Protocol, TypeVar\nT = TypeVar('T')\n"
    small = strip(head + DECLARED)
    assert "bytes" not in small and "first" not in small
    found = run(small)
    assert found["Half"].load(None) == 5
    assert found["Pair"](1) == (1, 2)


def test_spaces_that_part_nothing_are_gone():
    text = (
        "def f(a, *b, c = 1):\n\tx = 1 if a else - 2\n\tif not a and b [1 :] in (3,):\n"
        "\t\treturn f'{a!r:>{c}} {{ }}  b' \"c  d\" , 1 .real, lambda: 0\n"
        "\ttext = '''  two\n   lines'''\n\treturn x ** - a, text, 0 or x, [1 for z in b if z]\n"
    )
    small = tight(text)
    assert ast.dump(ast.parse(small)) == ast.dump(ast.parse(text))
    assert "x=1 if a else-2" in small and "'  two\n   lines'" in small
    assert len(small) < len(text) - 20


def test_tight_modules_mean_the_same():
    for path in sorted((PROJECT / "kernels").rglob("*.py"))[::7]:
        text = path.read_text()
        assert ast.dump(ast.parse(tight(text))) == ast.dump(ast.parse(text))


PRIVATE = """
class Sum:
    def __init__(self, start):
        self._start = start
        self._named = start

    def total(self, _given):
        return self._add(self._start) + getattr(self, "_named") + _twice(_given)

    def _add(self, more):
        return self._start + more + self._common()

    def _common(self):
        return 0

def _twice(value):
    return 2 * value

def _given(): ...

found = Sum(3).total(5)
"""


def test_private_names_of_one_module_become_short() -> None:
    shared = shared_names([PRIVATE, "class Other: _common = 1"])
    assert shared == {"_common"}
    text = ast.unparse(shorten_private(ast.parse(PRIVATE), shared))
    found = {}
    exec(text, found)
    assert found["found"] == 3 + 3 + 3 + 10
    assert not [name for name in ("_start", "_add", "_twice") if name in text]
    # Strings, parameters and other modules may mean these.
    assert all(name in text for name in ("_named", "_given", "_common"))


def test_private_names_of_subclasses_and_kernels_stay() -> None:
    for other in ("class Sub(other.Base): ...", "@triton.jit\ndef kernel(): ..."):
        tree = ast.parse(f"{PRIVATE}\n{other}")
        before = ast.unparse(tree)
        assert ast.unparse(shorten_private(tree, frozenset())) == before
