"""Hold documents of some authors out of a training file, to tune settings without validation.

    python -m bench hold_out docs_train_00.jsonl.xz --train TRAIN.jsonl --held HELD.jsonl

The bundled list, ``held_out.json``, has indices of documents in the sprint's training file: all
those of five authors, and more that may be theirs, which go to neither side. A person read clusters
of documents that share rare names to find them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.harness.record import check_out
from data.documents import FIELD
from data.readers import corpus
from errors import InputError
from files import write_text

LIST = Path(__file__).with_name("held_out.json")


def main(documents: Path, /, *, train: Path, held: Path) -> None:
    """Write both files.

    Args:
        documents: the sprint's training file
        train: file for the documents that stay
        held: file for the documents that are held out

    Raises:
        InputError: two of the files are the same, or the documents are not the list's.
    """
    if len({path.resolve() for path in (documents, train, held)}) < 3:
        raise InputError("documents, --train and --held: give three files")
    check_out(train, held)
    listed, dropped = places(LIST)
    absent = listed | dropped
    read = corpus((documents,))
    read.check()
    texts = [document.text for document in read.documents()]
    if max(absent) >= len(texts):
        raise InputError(
            f"{documents} has {len(texts)} documents, but the list names number "
            f"{max(absent)}; it is of the sprint's training file"
        )
    kept = [text for place, text in enumerate(texts) if place not in absent]
    write_text(train, as_lines(kept))
    write_text(held, as_lines([texts[place] for place in sorted(listed)]))
    print(
        f"{len(kept):,} documents to train on, {len(listed):,} held out, {len(dropped):,} dropped"
    )


def places(path: Path) -> tuple[set[int], set[int]]:
    """Return the indices of documents that are held out, and of those that go to neither side."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    return set(listed["held"]), set(listed["dropped"])


def as_lines(texts: Sequence[str]) -> str:
    """Return documents as JSON, one a line, as ``python -m data prepare`` reads them."""
    return "".join(json.dumps({FIELD: text}, ensure_ascii=False) + "\n" for text in texts)
