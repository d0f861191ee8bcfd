"""The architecture: imports point one way and in no circle, files and parameter lists are short."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from files import PROJECT

# Each package may import those of the lines above its own.
LEVELS = (
    ("errors", "files", "command_line"),
    ("kernels",),
    ("model",),
    ("settings",),
    ("runtime", "data"),
    ("knowledge",),
    ("swarm",),
    ("training", "artifact", "evaluation"),
    ("train", "bench"),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
# Besides: an evaluation reads artifacts, benchmarks start runs, the command line prints errors.
SIDEWAYS = {("evaluation", "artifact"), ("bench", "train"), ("command_line", "errors")}
# Only these modules of a package, because the package's others need torch or know the network.
PARTS = {("settings", "model"): {"model.config"}, ("runtime", "model"): {"model.config"}}
# Text of the file that a submission consists of; nothing imports it.
TEMPLATES = {Path("artifact/submission/template.py")}
SWARM = "swarm.steering, swarm.replay, swarm.agents, swarm.simulate, swarm.report"
MOST_LINES, MEDIAN_LINES = 400, 200
MOST_PARAMETERS = 12
# What is still to be rewritten: imports in a circle, longer parameter lists, longer files.
CIRCLES = {("bench.harness.bar", "bench.harness.contest")}
WIDE = {
    "kernels/attention/backward_dkv.py",
    "kernels/attention/backward_dkv_hopper.py",
    "kernels/attention/backward_dq.py",
    "kernels/attention/backward_dq_hopper.py",
    "kernels/attention/backward_prepare.py",
    "kernels/attention/forward.py",
    "kernels/attention/forward_hopper.py",
    "kernels/attention/qkv_hopper.py",
    "kernels/attention/rope.py",
}
LONG = {
    "kernels/attention/backward_dkv_hopper.py",
    "kernels/attention/backward_dq_hopper.py",
    "kernels/attention/forward_hopper.py",
}


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


IMPORTS = {name: set(imports(name, path)) for name, path in MODULES.items()}


def test_each_module_is_of_a_package_with_a_level():
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages - {"tests"} <= LEVEL.keys()
    assert {path.stem for path in PROJECT.glob("*.py")} <= LEVEL.keys()


def test_imports_point_one_way():
    wrong = []
    for name, found in IMPORTS.items():
        package = name.split(".")[0]
        for module in found:
            other = module.split(".")[0]
            lower = LEVEL[other] < LEVEL[package] and module in PARTS.get(
                (package, other), {module}
            )
            if other != package and not lower and (package, other) not in SIDEWAYS:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(
            {
                name: [m for m in found if (name, m) not in CIRCLES]
                for name, found in IMPORTS.items()
            }
        ).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_swarm_does_without_torch():
    code = f"import sys, {SWARM}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_no_function_of_the_kernels_has_more_than_12_parameters():
    wide: dict[str, str] = {}
    for path in (PROJECT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or node.name in ("forward", "backward"):
                continue  # autograd decides what those take
            every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            count = len([each for each in every if each.arg not in ("self", "cls")])
            if count > MOST_PARAMETERS:
                wide[str(path.relative_to(PROJECT))] = f"{node.lineno} {node.name} {count}"
    assert {path: found for path, found in wide.items() if path not in WIDE} == {}


def test_files_are_short():
    paths = [*MODULES.values(), *(PROJECT / "tests").rglob("*.py")]
    lines = {
        str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in paths
    }
    long = {path: count for path, count in lines.items() if count > MOST_LINES}
    assert {path: count for path, count in long.items() if path not in LONG} == {}
    assert statistics.median(lines.values()) <= MEDIAN_LINES
