"""Collect what a submission's one file holds: modules, settings, scores of tokens, edges."""

import base64
import os
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from errors import InputError
from knowledge.edges import BUNDLED, place, read_edges, text_of
from knowledge.packing import pack
from knowledge.scores import BUILT_IN, check_name, read_scores
from settings.parts import parts_of

if TYPE_CHECKING:
    from settings import Settings

ENTRIES = ("train.py", "evaluation/every.py")
HEAD = "artifact/submission/template.py"
PRESET = "presets/submission.toml"
SCORES = "knowledge/wordnet"
EDGES = f"knowledge/{BUNDLED.name}"
# Agents of one set alone; those of the set frontier build on health and learning_rate.
OF_SETS = {
    "swarm.agents.seed": ("knowledge", "mtp"),
    "swarm.agents.frontier": (
        *("guard", "heads", "loops", "memory", "pace", "rate", "recovery", "sight", "stride"),
    ),
}
# Settings that differ between machines or runs, and names of presets.
NOT_KEPT = (
    *("preset", "config", "data", "tokenizer", "run_dir", "run_id", "track", "resume", "seed"),
    "edges",
    *("sample_every", "sample_prompt", "sample_tokens"),
)
# Settings that read a file outside the bundle; runs with them are not submitted.
ELSEWHERE = ("swarm_yoke", "reference_clock")
# The file neither packs nor judges nor explains itself, nor writes texts; contests have neither
# trackers nor pictures nor tables nor tokenizers others than SentencePiece.
LEFT_OUT = re.compile(
    "|".join(
        (
            r"artifact/submission/(packed|bundle|strip|shorten|tight|public)\.py",
            r"evaluation/audit/.*",
            r"runtime/tracking\.py",
            r"data/(byte_pairs|fidelity|text_stream)\.py",
            r"model/decoding\.py",
            r"training/(explain|gradient_signals|memory|reference_clock)\.py",
            r"evaluation/(displays|generation|writer|samples)\.py",
        )
    )
)
IMPORT = re.compile(
    r"^[ \t]*(?:from +([\w.]+) +import +(\([^)]*\)|[^\n]+)|import +([\w., ]+))", re.MULTILINE
)
END = """
if __name__ == "__main__":
    sys.exit(main())
"""


def contents(root: Path, settings: "Settings") -> dict[str, str]:
    """Return the files of a bundle by path: text, or bytes in base 85 if they are ``*.scores``.

    Args:
        root: of the project.
        settings: of a run; data, tokenizer and seed are left to whoever starts the file.

    Raises:
        InputError: a file that is needed is missing, or token scores are none.
    """
    from runtime.run_folder import to_toml  # needs torch, without which every run lists its modules

    kept = settings.model_dump(exclude={*NOT_KEPT, *ELSEWHERE}, exclude_defaults=True)
    scores = token_scores(settings.kg_scores)
    if scores:
        kept["kg_scores"] = "wordnet"
    texts = {name: read(root / name).decode() for name in sorted(modules(root))}
    pairs = {}
    if settings.num_edges:  # parsed and written again, as scores are
        pairs[EDGES] = text_of(read_edges(place(settings)))
    for name, wanted in wanted_parts(settings).items():
        if not wanted:
            texts.pop(name, None)  # what no bundle has is left out already
    return {**texts, PRESET: to_toml(kept), **scores, **pairs}


def wanted_parts(settings: "Settings") -> dict[str, bool]:
    """Return whether a run uses each part that not every run does, by path."""
    found = {module: wanted for module, (_, wanted) in parts_of(settings).items()}
    held_out = found["training.probe"] or found["training.readout"]
    return {
        **{f"{module.replace('.', '/')}.py": wanted for module, wanted in found.items()},
        **{
            f"swarm/agents/{name}.py": found[of_set]
            for of_set, names in OF_SETS.items()
            for name in names
        },
        "kernels/linear/fp8.py": found["kernels.mlp.fp8"],
        "kernels/mlp/up_fp8_hopper.py": found["kernels.mlp.fp8"],
        "kernels/peers.py": found["kernels.attention.flash"],
        "training/held_out.py": held_out,
    }


def token_scores(given: str) -> dict[str, str]:
    """Return files of token scores by path, in base 85: one, or those of a name of ``BUILT_IN``.

    A file is parsed and written again, so that nothing else than scores is ever published.

    Raises:
        InputError: a file is missing, holds no token scores, or has a name with other characters
            than letters, digits, dots, dashes and underscores.
    """
    if not given:
        return {}
    paths = sorted(BUILT_IN[given].glob("*.scores")) if given in BUILT_IN else [Path(given)]
    for path in paths:
        check_name(path)
    packed = {path.stem: pack(read_scores(path)) for path in paths}
    return {f"{SCORES}/{n}.scores": base64.b85encode(each).decode() for n, each in packed.items()}


def readable(root: Path, files: dict[str, str]) -> str:
    """Return a Python file that runs like the packed one and shows all code as it is.

    Raises:
        InputError: a module holds ''' and cannot be quoted.
    """
    sections = [quoted(name, text) for name, text in files.items()]
    return "\n".join([read(root / HEAD).decode() + "\n", *sections, END])


def quoted(name: str, text: str) -> str:
    """Return a statement that puts a file into ``FILES`` as it is."""
    if "'''" in text or text.endswith(("\\", "'")):
        raise InputError(f"{name} holds ''' and cannot be quoted; write it with another quote")
    return f"FILES[{name!r}] = r'''{text}'''\n"


def modules(root: Path) -> set[str]:
    """Return the paths of all modules that ``ENTRIES`` may import, whenever they do."""
    found: set[str] = set()
    waiting = [*ENTRIES]
    files = cache(lambda name: [*_files(str(root), name)])
    while waiting:
        name = waiting.pop()
        if name not in found and not LEFT_OUT.fullmatch(name):
            found.add(name)
            for module in _imported(read(root / name).decode()):
                parts = module.split(".")
                for length in range(1, len(parts) + 1):
                    waiting += files("/".join(parts[:length]))
    return found


@lru_cache(maxsize=1_000)  # a run asks several times, of modules that seldom change
def _imported(text: str) -> frozenset[str]:
    """Return what a module imports: modules, and names that may be modules."""
    # A regular expression, because parsing every module takes a second of each run.
    found = set()
    for base, names, plain in IMPORT.findall(text):
        words = re.findall(r"[\w.]+", names)
        modules = [base, *(f"{base}.{word}" for word in words)] if base else plain.split(",")
        found.update(module.split()[0] for module in modules)
    return frozenset(found)


def _files(root: str, stem: str) -> Iterator[str]:
    """Yield the files of a module or package, if it is the project's."""
    places = (f"{stem}.py", f"{stem}/__init__.py")
    return (place for place in places if os.path.isfile(f"{root}/{place}"))  # noqa: PTH113 - slow


def read(path: Path) -> bytes:
    """Return a project file's content. Raises InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot bundle {path}: {error.strerror}") from None
