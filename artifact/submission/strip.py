"""Python without what only people read: comments, docstrings, annotations of functions."""

import ast
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from artifact.submission.bundle import IMPORT
from artifact.submission.shorten import PRIVATE, compiles, readers, shorten, shorten_private
from artifact.submission.tight import tight

GIVEN = re.compile(r"""\b(\w+)=(?!=)|["'](\w+)["']""")


class Outside(NamedTuple):
    """Names in a module that others may know it by."""

    documented: frozenset[str]
    """Classes whose ``__doc__`` is read."""
    given: frozenset[str]
    """Words that stand in front of ``=`` or in quotes: what parameters may be called."""
    shared: frozenset[str]
    """Private names that several modules have."""
    named: frozenset[str]
    """Words that a module may find in another: of imports, behind dots, and those given."""

    @classmethod
    def of(cls, texts: Collection[str]) -> "Outside":
        """Return those of a whole project's modules."""
        counts = Counter(name for text in texts for name in {*PRIVATE.findall(text)})
        given = {word for text in texts for pair in GIVEN.findall(text) for word in pair}
        imports = (" ".join(found) for text in texts for found in IMPORT.findall(text))
        dots = (word for text in texts for word in re.findall(r"\.([^\W\d]\w*)", text))
        return cls(
            frozenset(name for text in texts for name in re.findall(r"\b(\w+)\.__doc__", text)),
            frozenset(given),
            frozenset(name for name, count in counts.items() if count > 1),
            frozenset(given.union(dots, *map(re.compile(r"\w+").findall, imports))),
        )


def strip(text: str, outside: Outside | None = None) -> str:
    """Return a module's text without comments, docstrings and annotations, with short names.

    Functions, classes and constants go, too, if neither this module nor another one names them.
    Options keep their names and lose their descriptions, which the readable file has.

    Functions with a decorator keep docstring and annotations, because a command line reads them;
    a compiler of kernels reads the annotations only, and ``UNREADING`` neither. The fields of a
    class keep theirs.

    Args:
        text: of a module.
        outside: names that stay; None: all but variables stay, no docstrings do.

    Raises:
        SyntaxError: it is no Python.
    """
    tree, keep = ast.parse(text), outside.documented if outside else frozenset()
    before = _names(tree)
    for node in ast.walk(tree):
        has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if has_docstring and not _is_read(node, keep):
            _drop_docstring(node)
        if isinstance(node, ast.ClassDef):
            _drop_texts(node)
        if isinstance(node, ast.FunctionDef) and not readers(node):
            _drop_annotations(node)
        if isinstance(node, ast.keyword) and node.arg == "description":
            node.value = ast.Constant("")
    tree = _Plain().visit(tree)
    if outside:
        _drop_unnamed(tree, outside.named)
    _drop_imports(tree, before)
    shorten(tree, outside and outside.given)
    if outside:
        shorten_private(tree, outside.shared)
    lines = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    return tight(re.sub(r"(?m)^( {4})+", lambda indent: "\t" * (len(indent[0]) // 4), lines))


def _is_read(node: ast.Module | ast.ClassDef | ast.FunctionDef, keep: frozenset[str]) -> bool:
    if isinstance(node, ast.FunctionDef):
        return bool(readers(node)) and not any(map(compiles, node.decorator_list))
    return isinstance(node, ast.ClassDef) and node.name in keep


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]
        if not node.body and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]


def _drop_texts(node: ast.ClassDef) -> None:
    """Remove the descriptions of fields, and all that a protocol only declares."""
    first, *rest = node.body
    node.body = [first, *(each for each in rest if not _is_text(each))]
    protocol = any(ast.unparse(base).split("[")[0] == "Protocol" for base in node.bases)
    if protocol and all(map(_declares, node.body)):
        node.body = [ast.Pass()]


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str | type(...))
    )


def _declares(node: ast.stmt) -> bool:
    """Return whether a statement of a class computes nothing."""
    if isinstance(node, ast.FunctionDef):
        return all(isinstance(each, ast.Pass) or _is_text(each) for each in node.body)
    return _is_text(node) or (isinstance(node, ast.AnnAssign) and node.value is None)


class _Plain(ast.NodeTransformer):
    """Assignments without annotations, but for fields of classes and compiled functions."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [n if isinstance(n, ast.AnnAssign) else self.visit(n) for n in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node if any(map(compiles, node.decorator_list)) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _drop_annotations(node: ast.FunctionDef) -> None:
    node.returns, args = None, node.args
    stars = [each for each in (args.vararg, args.kwarg) if each]
    for argument in [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]:
        argument.annotation = None


def _drop_unnamed(tree: ast.Module, named: frozenset[str]) -> None:
    """Remove functions, classes and constants that neither the module names nor another one."""
    words = {id(each): {*re.findall(r"\w+", ast.unparse(each))} for each in tree.body}
    before = 0
    while len(tree.body) != before:
        before = len(tree.body)
        counts = Counter(word for each in tree.body for word in words[id(each)])
        tree.body = [
            each
            for each in tree.body
            if (name := _made(each)) is None or name in named or counts[name] > 1
        ]


def _made(statement: ast.stmt) -> str | None:
    """Return the name that a statement defines, if it does nothing else."""
    match statement:
        case ast.FunctionDef(name=name, decorator_list=[]) if not name.startswith("__"):
            return name
        case ast.ClassDef(name=name, decorator_list=[]):
            return name
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            calls = any(isinstance(node, ast.Call) for node in ast.walk(value))
            return None if calls else name
    return None


def _drop_imports(tree: ast.Module, before: set[str]) -> None:
    """Remove what only type checkers import, and names that were used ``before`` and are not."""
    body: list[ast.stmt] = []
    for each in tree.body:
        if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
            body += each.orelse
        else:
            body.append(each)
    tree.body = body
    used = _names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.update(re.findall(r"\w+", node.value))  # annotations may be strings
    for each in body:
        if isinstance(each, ast.ImportFrom):
            gone = before - used
            each.names = [alias for alias in each.names if (alias.asname or alias.name) not in gone]
    tree.body = [s for s in body if not isinstance(s, ast.ImportFrom) or s.names]


def _names(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
