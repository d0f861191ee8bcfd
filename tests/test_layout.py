"""The architecture: imports point one way and in no circle, files and parameter lists are short."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from files import PROJECT

# Each package may import those of the lines above its own.
LEVELS = (
    ("errors", "files"),
    ("reading", "command_line", "terminal"),
    ("kernels",),
    ("model",),
    ("settings",),
    ("runtime", "data"),
    ("knowledge",),
    ("swarm",),
    ("training", "artifact", "evaluation"),
    ("train", "bench", "murmuration"),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
# Besides: an evaluation reads artifacts, benchmarks start runs, a submission checks accounts.
SIDEWAYS = {("evaluation", "artifact"), ("bench", "train")}
ACCOUNTS = "artifact.submission.accounts"
# Only these modules of a package, because the package's others need torch or know the network.
PARTS = {("settings", "model"): {"model.config"}, ("runtime", "model"): {"model.config"}}
# Text of the file that a submission consists of; nothing imports it.
TEMPLATES = {Path("artifact/submission/template.py")}
SWARM = "swarm.steering, swarm.replay, swarm.agents, swarm.simulate, swarm.report"
MOST_LINES, MEDIAN_LINES = 400, 200
MOST_PARAMETERS = 9
MOST_PARAMETERS_OF_A_KERNEL = 12


def sources(root: Path = PROJECT) -> dict[str, Path]:
    """Modules of the project, without tests, by name."""
    found: dict[str, Path] = {}
    for package in LEVEL:
        folder = root / package
        paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [root / f"{package}.py"]
        for path in paths:
            relative = path.relative_to(root)
            if relative not in TEMPLATES:
                parts = relative.with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources()


def imports(name: str, path: Path) -> Iterator[str]:
    """Modules of the project that a module imports, at any place, those for types included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in LEVEL)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            base = node.module or ""
            if base.split(".")[0] in LEVEL:
                for alias in node.names:
                    module = f"{base}.{alias.name}"
                    yield module if module in MODULES else base


@cache
def every_import() -> dict[str, set[str]]:
    """Return what each module imports: each process collects this file, and one runs its tests."""
    return {name: set(imports(name, path)) for name, path in MODULES.items()}


def test_each_module_is_of_a_package_with_a_level():
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages - {"tests"} <= LEVEL.keys()
    assert {path.stem for path in PROJECT.glob("*.py")} <= LEVEL.keys()


def test_imports_point_one_way():
    wrong = []
    for name, found in every_import().items():
        package = name.split(".")[0]
        for module in found:
            other = module.split(".")[0]
            lower = LEVEL[other] < LEVEL[package] and module in PARTS.get(
                (package, other), {module}
            )
            sideways = (package, other) in SIDEWAYS or (name, other) == (ACCOUNTS, "evaluation")
            if other != package and not lower and not sideways:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(every_import()).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_swarm_does_without_torch():
    code = f"import sys, {SWARM}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's place and the number of its parameters, without ``self`` and ``cls``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
        if static and node.name in ("forward", "backward"):
            continue  # autograd decides what those take
        every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        names = {each.arg for each in every} - {"self", "cls"}
        yield f"{path.relative_to(PROJECT)}:{node.lineno} {node.name}", len(names)


def test_parameter_lists_are_short():
    wide: dict[str, int] = {}
    for path in [*MODULES.values(), *(PROJECT / "tests").rglob("*.py")]:
        in_kernels = path.is_relative_to(PROJECT / "kernels")
        most = MOST_PARAMETERS_OF_A_KERNEL if in_kernels else MOST_PARAMETERS
        wide |= {place: count for place, count in parameters(path) if count > most}
    assert wide == {}


def test_files_are_short():
    paths = [*MODULES.values(), *(PROJECT / "tests").rglob("*.py")]
    lines = {
        str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in paths
    }
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
    assert statistics.median(lines.values()) <= MEDIAN_LINES
