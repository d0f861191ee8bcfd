"""Short names for functions, classes and constants that modules import from each other."""

import ast
import builtins
import keyword
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from string import ascii_letters
from typing import NamedTuple

from artifact.submission.shorten import compiles, readers

WORD = re.compile(r"\b[^\W\d]\w*")
LENGTH = 2  # of new names; shorter words may be a string's prefix
PLAIN = {"NamedTuple", "Protocol"}  # bases that show nobody their subclasses' names


class Names(NamedTuple):
    """A module's names, each a word."""

    made: list[str]
    """Those that its statements define, in their order."""
    stay: list[str]
    """Those that may mean something else: attributes, parameters, words of strings."""

    @classmethod
    def of(cls, text: str, packages: Collection[str]) -> "Names":
        """Return a module's names.

        Args:
            text: of the module.
            packages: first parts of the project's modules; what others define stays.
        """
        tree = ast.parse(text)
        made = [each for statement in tree.body for each in _defined(statement)]
        free = {id(node) for node in made} | {id(node) for node in _read(tree, packages)}
        stay = {word for node in ast.walk(tree) if id(node) not in free for word in _words(node)}
        names = [node.id if isinstance(node, ast.Name) else node.name for node in made]
        return cls([*dict.fromkeys(names)], sorted(stay))


def renamed(texts: Mapping[str, str], names: Mapping[str, Names], stay: str) -> dict[str, str]:
    """Return modules' texts in which names of the project are two letters each.

    A name is replaced if it is a function, a class without bases or a constant in all texts, and
    nothing else in any. The new names are in no text before, so each text means the same.

    Args:
        texts: of modules, by path.
        names: of the same modules.
        stay: text whose words stay, because it uses the modules.
    """
    words = {word for text in texts.values() for word in WORD.findall(text)}
    fixed = {*dir(builtins), *keyword.kwlist, *WORD.findall(" ".join((stay, *texts)))}
    fixed = fixed.union(*(each.stay for each in names.values()))
    made = dict.fromkeys(name for each in names.values() for name in each.made)
    pairs = ("".join(pair) for pair in product(ascii_letters, repeat=LENGTH))
    free = (pair for pair in pairs if pair not in words | fixed)
    long = (name for name in made if len(name) > LENGTH and name not in fixed)
    new = dict(zip(long, free, strict=False))
    return {
        name: WORD.sub(lambda found: new.get(found[0], found[0]), text)
        for name, text in texts.items()
    }


def _defined(statement: ast.stmt) -> Iterator[ast.FunctionDef | ast.ClassDef | ast.Name]:
    """Yield what a module's statement defines and nothing shows under its name."""
    match statement:
        case ast.FunctionDef(decorator_list=decorators):
            if any(map(compiles, decorators)) or not readers(statement):
                yield statement
        case ast.ClassDef(bases=bases, decorator_list=[]):
            if PLAIN.issuperset(map(ast.unparse, bases)):
                yield statement
        case ast.Assign(targets=targets):
            nodes = (node for target in targets for node in ast.walk(target))
            yield from (
                n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            )


def _read(tree: ast.Module, packages: Collection[str]) -> Iterator[ast.AST]:
    """Yield the places where a name means what some module of the project defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in packages:
            yield from (alias for alias in node.names if alias.asname is None)


def _words(node: ast.AST) -> Iterator[str]:
    for _, value in ast.iter_fields(node):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):  # a string's words as they are, and behind a backslash
                yield from WORD.findall(f"{each} {each!r}")
