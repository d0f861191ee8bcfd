"""Documents of some authors held out of a training file: for settings that validation must not see.

    python -m bench hold_out docs_train_00.jsonl.xz --train TRAIN.jsonl --held HELD.jsonl

The list that comes along, ``held_out.json``, names documents of the sprint's training file by their
place: those of five authors who are then nowhere else in it, and more that may be theirs, which go
to neither side. They were found by clusters of documents that share rare names, read by a person.
"""

import argparse
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from errors import InputError
from files import atomic_write

LIST = Path(__file__).with_name("held_out.json")


def main(arguments: list[str]) -> int:
    """Write both files; 2 for bad input."""
    options = parser().parse_args(arguments)
    try:
        held, dropped = places(LIST)
        lines = list(read(options.documents))
        if max(held | dropped) >= len(lines):
            raise InputError(
                f"{options.documents} has {len(lines)} documents, but the list names number "
                f"{max(held | dropped)}; it is of the sprint's training file"
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kept = [line for place, line in enumerate(lines) if place not in held | dropped]
    write(options.train, kept)
    write(options.held, [lines[place] for place in sorted(held)])
    print(f"{len(kept):,} documents to train on, {len(held):,} held out, {len(dropped):,} dropped")
    return 0


def parser() -> argparse.ArgumentParser:
    """What is read, and what is written."""
    made = argparse.ArgumentParser(prog="python -m bench hold_out", description=__doc__)
    made.add_argument(
        "documents", type=Path, help="the sprint's training file, .jsonl or .jsonl.xz"
    )
    made.add_argument("--train", type=Path, required=True, help="file for what stays")
    made.add_argument("--held", type=Path, required=True, help="file for what is held out")
    return made


def places(path: Path) -> tuple[set[int], set[int]]:
    """Places of documents, from 0, that are held out, and of those that go to neither side."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    return set(listed["held"]), set(listed["dropped"])


def read(path: Path) -> Iterator[bytes]:
    """A file's lines.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, lzma.LZMAError) as problem:
        raise InputError(
            f"{path}: cannot be read ({problem}); give the file of documents"
        ) from None


def write(path: Path, lines: list[bytes]) -> None:
    """All of them or none."""
    with atomic_write(path) as file:
        file.writelines(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
