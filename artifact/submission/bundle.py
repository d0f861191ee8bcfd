"""The project as one Python file that runs from anywhere: ``train_gpt.py`` of a submission."""

import ast
import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from errors import InputError
from knowledge.scores import BUILT_IN
from runtime.run_folder import to_toml

ENTRY = "train.py"
HEAD = "artifact/submission/template.py"
PRESET = "presets/submission.toml"
SCORES = "knowledge/wordnet"
# Settings that differ between machines or runs, and names of presets.
NOT_KEPT = ("preset", "config", "data", "tokenizer", "run_dir", "resume", "seed")
LINE = 90
END = """
if __name__ == "__main__":
    sys.exit(main())
"""


def bundle(root: Path, settings: Mapping[str, object]) -> str:
    """Return the text of a file that trains as ``train.py`` does with these settings.

    Args:
        root: of the project.
        settings: of a run; data, tokenizer and seed are left to whoever starts the file.

    Raises:
        InputError: a file that is needed is missing, or holds ''' and cannot be quoted.
    """
    kept = {name: value for name, value in settings.items() if name not in NOT_KEPT}
    given = str(settings.get("kg_scores") or "")
    scores: list[Path] = []
    if given:
        kept["kg_scores"] = "wordnet"
        scores = [Path(given)]
        if given in BUILT_IN:
            scores = sorted(BUILT_IN[given].glob("*.scores"))
    texts = {name: _read(root / name).decode() for name in sorted(modules(root))}
    texts[PRESET] = to_toml(kept)
    sections = [quoted(name, text) for name, text in texts.items()] + [*map(packed, scores)]
    return "\n".join([_read(root / HEAD).decode() + "\n", *sections, END])


def quoted(name: str, text: str) -> str:
    """Return a statement that puts a file into ``TEXTS`` as it is."""
    if "'''" in text or text.endswith(("\\", "'")):
        raise InputError(f"{name} holds ''' and cannot be quoted; write it with another quote")
    return f"TEXTS[\"{name}\"] = r'''{text}'''\n"


def packed(path: Path) -> str:
    """Return a statement that puts token scores into ``PACKED``."""
    coded = base64.b85encode(_read(path)).decode()
    lines = [f'    "{coded[at : at + LINE]}"\n' for at in range(0, len(coded), LINE)]
    return f'PACKED["{SCORES}/{path.stem}.scores"] = (\n{"".join(lines)})\n'


def modules(root: Path) -> set[str]:
    """Return the paths of ``train.py`` and of all modules that it may ever import."""
    found: set[str] = set()
    waiting = [ENTRY]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(root, ast.parse(_read(root / name), name))
    return found


def _imported(root: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _files(root, name)


def _files(root: Path, name: str) -> Iterator[str]:
    """Return a module's file and its packages' files, as far as they are the project's."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        stem = "/".join(parts[:length])
        places = (f"{stem}.py", f"{stem}/__init__.py")
        yield from (place for place in places if (root / place).is_file())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot bundle {path}: {error.strerror}") from None
