"""Modules that are stripped do what they did."""

import ast
import inspect
import sys
import types

from artifact.submission.shorten import shorten, shorten_private
from artifact.submission.strip import Outside, strip

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
    outside = Outside.of([MODULE, "print(Pair.__doc__)"])
    assert outside.documented == {"Pair"}
    assert "Two." in strip(MODULE, outside) and "Two." not in small


def test_what_only_annotations_need_is_not_imported() -> None:
    text = (
        "from torch import Tensor, nn\nfrom model import Given, Other, Part\n"
        "def f(x: Tensor, part: Part) -> Other:\n    return nn.Linear(x)\n"
        "@command\ndef run(given: 'Given'): ...\n"
    )
    small = strip(text)
    assert "from torch import nn;from model import Given\n" in small


UNNAMED = """
from collections.abc import Callable, Mapping
from parts import tool
Alias = Callable[[int], int]
Table = Mapping[str, int]
LIMIT = 3
app = tool()
def alone(x: Alias): return other(x) + alone(x)
def other(x): return LIMIT
def imported(): return 1
def attribute(): return 1
def quoted(): return 1
def __getattr__(name): raise AttributeError
@tool
def decorated(): return 1
class Lone: pass
class Kept: pass
print(Kept)
"""


def test_what_neither_the_module_names_nor_another_is_gone() -> None:
    others = ["from a.b import (\n    c,\n    imported,\n)", "b.attribute()", "f('quoted')"]
    small = strip(UNNAMED, Outside.of([UNNAMED, *others]))
    left = ast.parse(small).body
    functions = [each.name for each in left if isinstance(each, ast.FunctionDef)]
    assert functions == ["imported", "attribute", "quoted", "__getattr__", "decorated"]
    assert [each.name for each in left if isinstance(each, ast.ClassDef)] == ["Kept"]
    assert "app=tool()" in small
    assert not [word for word in ("Callable", "Mapping", "LIMIT", "Alias") if word in small]


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
    )
    tree = shorten(ast.parse(text))
    assert ast.unparse(tree) == ast.unparse(ast.parse(text))


PARAMETERS = """
class Shape:
    def scaled(self, factor, /, offset, *, unit, **rest):
        return factor * offset * unit

    @classmethod
    def of(cls, sides):
        return [(lambda side: side + 1)(each) for each in sides]

@command
def show(path): return path

def area(width, height, a=1):
    def doubled(number): return number * 2
    return doubled(width) * height * a

found = Shape.of([1, 2]), area(2, height=3), Shape().scaled(2, 3, unit=4)
"""


def test_parameters_become_short_unless_somebody_may_give_them_by_name() -> None:
    given = Outside.of([PARAMETERS, "call(**{'offset': 1})"]).given
    assert {"height", "unit", "a", "offset"} <= given
    text = ast.unparse(shorten(ast.parse(PARAMETERS), given))
    assert not [n for n in ("sides", "side:", "width", "number") if n in text]
    assert "def scaled(self, factor, /, offset, *, unit, **rest)" in text
    assert "def show(path)" in text and "height" in text
    space = {"command": lambda function: function}
    exec(text, space)
    assert space["found"] == ([2, 3], 12, 24)


FIELDS = """
class Box:
    width = 3
    sizes = [width for width in (1, 2)]

    def grown(self, more, width=width):
        sizes = width + more
        return sizes + self.width

found = Box().grown(1)
"""


def test_a_class_s_names_are_free_in_its_methods_but_for_what_surrounds_them() -> None:
    text = ast.unparse(shorten(ast.parse(FIELDS), frozenset()))
    assert "def grown(self, a, width=width):" in text and "b = width + a" in text
    space: dict[str, int] = {}
    exec(text, space)
    assert space["found"] == 3 + 1 + 3


def test_short_names_follow_each_other_as_in_the_text() -> None:
    text = "def made(x):\n    if x:\n        y = x\n    for z in y:\n        w = z\n    v, u = w"
    expected = (
        "def made(a):\n    if a:\n        b = a\n    for c in b:\n        d = c\n    e, f = d"
    )
    assert ast.unparse(shorten(ast.parse(text), frozenset())) == expected


def test_a_kernels_variables_keep_their_order_and_are_short() -> None:
    text = (
        "@triton.jit\ndef h(rows, total, BLOCK):\n"
        "    if rows:\n        second, first, zeros, Big = 1, 2, 3, 4\n"
        "    else:\n        first, second, zeros, Big = 5, 6, 7, 8\n"
        "    total += first\n    return second + total + zeros + Big, triton\n"
        "h[1](total=1, BLOCK=3)\n"
    )
    tree = shorten(ast.parse(text), Outside.of([text]).given)
    pairs = dict(zip(_names(ast.parse(text)), _names(tree), strict=True))
    assert pairs["total"] == "total" and pairs["triton"] == "triton"
    short = {old: new for old, new in pairs.items() if old != new}
    assert short.keys() == {"rows", "second", "first", "zeros", "Big"}
    assert max(map(len, short.values())) <= 2
    stored = sorted(["total", *short])
    assert [pairs[name] for name in stored] == sorted(pairs[name] for name in stored)


def _names(tree: ast.Module) -> list[str]:
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


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
    shared = Outside.of([PRIVATE, "class Other: _common = 1"]).shared
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
