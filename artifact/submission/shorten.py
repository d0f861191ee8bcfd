"""Short names for what nobody outside names: variables, most parameters, private functions."""

import ast
import builtins
import keyword
import re
from collections.abc import Iterable, Iterator
from itertools import count, islice, pairwise
from string import ascii_letters

COMPILERS = {"jit", "constexpr_function"}
# Decorators that read nothing of their function.
UNREADING = {"property", "classmethod", "staticmethod", "contextmanager", "cache", "lru_cache"}
UNREADING |= {"cached_property", "no_grad", "inference_mode", "field_validator", "model_validator"}
PRIVATE = re.compile(r"\b_[a-z]\w*\b")
BASES = {"NamedTuple", "Protocol", "Exception", "RuntimeError", "ValueError", "torch", "nn"}
MOST = 500  # short names that a kernel's are chosen from
SEES_NAMES = {"locals", "vars", "eval", "exec", "dir", "globals"}


def shorten(tree: ast.Module, given: frozenset[str] | None = None) -> ast.Module:
    """Rename each function's variables to a, b, c and so on, in place; return the tree.

    A function and all that is defined in it are renamed together. A kernel's variables keep their
    alphabetical order, because Triton passes them out of branches in this order: so it compiles to
    the same code.

    Args:
        tree: of a module.
        given: words that parameters must stay, because callers may give them by name
            (`Outside.given`); None: all parameters stay.
    """
    outside = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *_module_names(tree)}
    for function in _outermost(tree):
        _rename(function, outside, given)
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


def readers(node: ast.FunctionDef) -> list[ast.expr]:
    """Return the decorators that may read a function's docstring, annotations and parameters."""
    return [each for each in node.decorator_list if decorator_name(each) not in UNREADING]


def compiles(decorator: ast.expr) -> bool:
    """Return whether a decorator compiles its function for a GPU."""
    return decorator_name(decorator) in COMPILERS


def decorator_name(decorator: ast.expr) -> str:
    """Return a decorator's last name, without its module and arguments."""
    return ast.unparse(decorator).split("(")[0].split(".")[-1]


def _rename(function: ast.FunctionDef, outside: set[str], given: frozenset[str] | None) -> None:
    nodes = list(_as_written(function))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    seen = {name.id for name in names}
    if SEES_NAMES & seen:
        return
    fixed = outside | _fixed(nodes) | _parameters(nodes, given) | _read_around(function)
    made = dict.fromkeys(node.arg for node in nodes if isinstance(node, ast.arg))
    made |= dict.fromkeys(name.id for name in names if not isinstance(name.ctx, ast.Load))
    free = _short(seen | fixed)
    if any(map(compiles, function.decorator_list)):
        new = _in_order(made, fixed, free)
    else:
        new = dict(zip((name for name in made if name not in fixed), free, strict=False))
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = new.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = new.get(node.arg, node.arg)


def _in_order(names: Iterable[str], fixed: set[str], free: Iterator[str]) -> dict[str, str]:
    """Return new names by old that sort like the old ones among themselves and ``fixed``."""
    some, new = list(islice(free, MOST)), {}
    ordered = sorted(names)
    ends = [at for at, name in enumerate(ordered) if name in fixed]
    for begin, end in pairwise([-1, *ends, len(ordered)]):
        group = ordered[begin + 1 : end]
        low, high = ordered[begin] if begin >= 0 else "", ordered[end : end + 1]
        between = [each for each in some if low < each and (not high or each < high[0])]
        if len(between) >= len(group):
            new.update(zip(group, sorted(between[: len(group)]), strict=True))
    return new


def _parameters(nodes: list[ast.AST], given: frozenset[str] | None) -> set[str]:
    """Parameters whose name a caller, a command line or an object may use."""
    found = {"self", "cls"}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            known = node.args.kwarg is not None
            if isinstance(node, ast.FunctionDef) and not any(map(compiles, node.decorator_list)):
                known = known or bool(readers(node))
            every = [each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            by_name = {each.arg for each in node.args.kwonlyargs}
            found |= {n for n in every if given is None or known or n in given | by_name}
    return found


def _read_around(function: ast.FunctionDef) -> set[str]:
    """Names of decorators, defaults and annotations, which may mean those of a class."""
    around = [function.args, *function.decorator_list]
    nodes = (node for each in around for node in ast.walk(each))
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def _module_names(tree: ast.Module) -> Iterator[str]:
    """Names that functions see: a module's, without those inside of its classes."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _fixed(nodes: list[ast.AST]) -> set[str]:
    """Names of a function that are more than variables: imports, definitions."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
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


def _as_written(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all inside of it, in the order of the text."""
    yield node
    for each in ast.iter_child_nodes(node):
        yield from _as_written(each)


def _short(taken: set[str]) -> Iterator[str]:
    """Names a, b, ..., Z, a0, b0, ... that are not taken."""
    for number in count(-1):
        suffix = "" if number < 0 else str(number)
        yield from (f"{each}{suffix}" for each in ascii_letters if f"{each}{suffix}" not in taken)
