"""The default corpus: the source text of the installed Python standard library.

Every machine that can run the project has it, its licence allows it, and it needs no download.
"""

import hashlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from data.documents import Corpus, Document, OnBad, whole
from data.folder import (
    Manifest,
)
from data.making import (
    already_made,
)
from data.prepare import Options, describe_options, make_folder
from errors import InputError

VOCAB_SIZE = 1024
VAL_SHARE = 0.04

# Other packages; tests, which are literal data more than text, and which many systems leave out;
# tables of character sets; what the interpreter's own build wrote, paths of its machine included.
LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}
LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")


def make_builtin(out: Path, workers: int, console: Console) -> None:
    """Make the default corpus in ``out``, unless it exists for this Python.

    A document is a source file; about 4 % of them, chosen by a hash of their path, validate.

    Raises:
        InputError: ``out`` holds something else, or this Python comes without its sources.
    """
    options = Options(tokenizer=VOCAB_SIZE, workers=workers, equal="keep")
    options.check()
    source: Manifest = {
        "kind": "builtin",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **describe_options(options),
    }
    if already_made(out, source):
        console.print(f"{out}: already there ({source['python']})")
        return
    train, val = split_files(Path(sysconfig.get_path("stdlib")))
    if not train.paths or not val.paths:
        raise InputError("this Python comes without its library's sources; use `data prepare`")
    make_folder(train, val, options, out, source, console)


def split_files(library: Path) -> tuple[Corpus, Corpus]:
    """Return the library's source files that are text, for training and for validation."""
    files = sorted(path for path in library.rglob("*.py") if _is_wanted(path.relative_to(library)))
    val = [path for path in files if validates(path.relative_to(library))]
    train = [path for path in files if not validates(path.relative_to(library))]
    return Corpus(tuple(train), read_source), Corpus(tuple(val), read_source)


def _is_wanted(relative: Path) -> bool:
    return not LEFT_OUT_FOLDERS.intersection(relative.parts) and not any(
        part.startswith(LEFT_OUT_PREFIXES) for part in relative.parts
    )


def validates(relative: Path) -> bool:
    """Whether a file is for validation: by its path alone, so that all machines agree.

    The prefix keeps pydoc_data/topics.py, by far the largest file, in training: it alone would be
    four fifths of the validation text.
    """
    digest = hashlib.sha256(f"val/{relative.as_posix()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < VAL_SHARE * 2**64


def read_source(path: Path, on_bad: OnBad) -> Iterator[Document]:
    """Yield a source file as one document, decoded as it declares."""
    with tokenize.open(path) as file:
        text = file.read()
    yield from whole(text, path.stat().st_size)
