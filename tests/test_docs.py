"""README and docs name files, modules, functions and classes that exist."""

import re
from pathlib import Path

import pytest

from files import PROJECT

PAGES = [
    path
    for path in sorted(PROJECT.glob("**/*.md"))
    if not {"results", "runs", "corpora"} & set(path.relative_to(PROJECT).parts)
    and not any(part.startswith(".") for part in path.relative_to(PROJECT).parts)
]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# A path in backticks: ends in a slash or in an extension of the project's own files.
NAMED = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w.-]+\.(?:py|md))`")
FILES = {path.name for path in PROJECT.glob("**/*.*") if ".venv" not in path.parts}
MODULE = re.compile(
    r"`((?:kernels|model|settings|runtime|data|knowledge|swarm|training|artifact|evaluation|bench)"
    r"(?:\.[a-z_0-9]+)+)`"
)


# In backticks: a name that is called, a class, and a name with an underscore that is no file's.
NAMES = (
    re.compile(r"\b([A-Za-z_]\w*)\("),
    re.compile(r"\b(?:[A-Z][a-z0-9]+){2,}\b"),
    re.compile(r"(?<![\w/-])[a-z]+(?:_[a-z0-9]+)+(?![\w./-])"),
)
CODE = [path for path in PROJECT.rglob("*.py") if path.relative_to(PROJECT).parts[0] != ".venv"]
WORDS = {word for path in CODE for word in re.findall(r"\w+", f"{path} {path.read_text()}")}


def page_name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files(page: Path):
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_are_named_exist(page: Path):
    named = NAMED.findall(page.read_text())
    written_by_runs = ("runs/", "corpora/", "records/", "checkpoints/", "nats/", "train_gpt")
    missing = [
        name
        for name in named
        if not name.startswith(written_by_runs)
        and not (PROJECT / name).exists()
        and not (page.parent / name).exists()
        and not (PROJECT / page.stem / name).exists()
        and ("/" in name or name not in FILES)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_modules_that_are_named_exist(page: Path):
    named = [
        name for name in MODULE.findall(page.read_text()) if not name.endswith((".bin", ".toml"))
    ]
    missing = [name for name in named if not module_exists(name)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_names_of_code_exist(page: Path):
    quoted = " ".join(re.findall(r"`([^`\n]+)`", page.read_text()))
    assert {name for pattern in NAMES for name in pattern.findall(quoted)} - WORDS == set()


def module_exists(name: str) -> bool:
    """Whether ``name`` is a module of the project, or a name in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = PROJECT.joinpath(*parts[:length])
        source = (
            stem.with_suffix(".py") if stem.with_suffix(".py").exists() else stem / "__init__.py"
        )
        if source.exists():
            rest = parts[length:]
            return not rest or re.search(rf"\b{rest[0]}\b", source.read_text()) is not None
    return False
