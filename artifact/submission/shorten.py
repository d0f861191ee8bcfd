"""Short names for local variables of functions, and for private names that one module alone has."""

import ast
import builtins
import keyword
import re
from collections.abc import Iterator
from itertools import count
from string import ascii_letters

COMPILERS = {"jit", "constexpr_function"}
PRIVATE = re.compile(r"\b_[a-z]\w*\b")
BASES = {"NamedTuple", "Protocol", "Exception", "RuntimeError", "ValueError", "torch", "nn"}
SEES_NAMES = {"locals", "vars", "eval", "exec", "dir", "globals"}


def shorten(tree: ast.Module) -> ast.Module:
    """Rename each function's local variables to a, b, c and so on, in place; return the tree.

    A function and all that is defined in it are renamed together. Parameters keep their names,
    because callers may give them by name, and so do kernels' variables, because the order of names
    may change what the compiler makes of them.
    """
    outside = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *_module_names(tree)}
    for function in _outermost(tree):
        if not any(compiles(each) for each in function.decorator_list):
            _rename(function, outside)
    return tree


def shorten_private(tree: ast.Module, shared: frozenset[str]) -> ast.Module:
    """Rename what a module calls ``_name`` to _a, _b and so on, in place; return the tree.

    Modules with kernels stay, and those with a class whose base is another module's, because a new
    name of the one could be a new name of the other.

    Args:
        tree: of the module.
        shared: private names of more than one module, which stay.
    """
    nodes = list(ast.walk(tree))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    known = BASES | {each.name for each in classes}
    bases = [re.split(r"\W", ast.unparse(base))[0] for each in classes for base in each.bases]
    compiled = any(compiles(each) for function in functions for each in function.decorator_list)
    if compiled or not known.issuperset(bases):
        return tree
    fixed, made = set(shared), {function.name for function in functions}
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                made.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) | ast.alias(name=name):
                fixed.add(name)
            case ast.keyword(arg=str(name)) | ast.arg(arg=name):
                fixed.add(name)
            case ast.Constant(value=str(text)):
                fixed.update(PRIVATE.findall(text))
    taken = {
        name for node in nodes for name in (getattr(node, "id", ""), getattr(node, "attr", ""))
    }
    free = (name for name in map("_{}".format, _short(set())) if name not in taken)
    new = {name: next(free) for name in sorted(made - fixed) if PRIVATE.fullmatch(name)}
    for node in nodes:
        for field in ("id", "attr", "name"):
            if getattr(node, field, None) in new:
                setattr(node, field, new[getattr(node, field)])
    return tree


def compiles(decorator: ast.expr) -> bool:
    """Return whether a decorator compiles its function for a GPU."""
    return decorator_name(decorator) in COMPILERS


def decorator_name(decorator: ast.expr) -> str:
    """Return a decorator's last name, without its module and arguments."""
    return ast.unparse(decorator).split("(")[0].split(".")[-1]


def _rename(function: ast.FunctionDef, outside: set[str]) -> None:
    nodes = list(ast.walk(function))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    if SEES_NAMES & {name.id for name in names}:
        return
    fixed = outside | _fixed(nodes)
    free = _short({name.id for name in names} | fixed)
    stored = {name.id for name in names if not isinstance(name.ctx, ast.Load)} - fixed
    new: dict[str, str] = {}
    for name in names:
        if name.id in stored:
            if name.id not in new:
                new[name.id] = next(free)
            name.id = new[name.id]


def _module_names(tree: ast.Module) -> Iterator[str]:
    """Names that mean something outside of functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        if not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


def _fixed(nodes: list[ast.AST]) -> set[str]:
    """Names of a function that are more than variables: parameters, imports, definitions."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=alias):
                found.add((alias or name).split(".")[0])
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                found.update(names)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                found.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                found.add(name)
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            found.update(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
    return found


def _outermost(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions of a module and methods of its classes, without those defined inside of them."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef):
            yield node
        else:
            waiting += ast.iter_child_nodes(node)


def _short(taken: set[str]) -> Iterator[str]:
    """Names a, b, ..., Z, a0, b0, ... that are not taken."""
    for number in count(-1):
        suffix = "" if number < 0 else str(number)
        yield from (f"{each}{suffix}" for each in ascii_letters if f"{each}{suffix}" not in taken)
