"""The documents of a corpus: of several files, in parts where they are long."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from errors import InputError

FIELD = "text"
PART_CHARACTERS = 1 << 21
"""Most characters of a part; a longer document is never in memory as a whole."""
PLACES = 5
EMPTY = "holds no document"


class Document(NamedTuple):
    """A document or a part of one.

    Attributes:
        text: some of its text.
        consumed: bytes of its file that have been read once it is out.
        continues: whether it goes on with the document before.
    """

    text: str
    consumed: int
    continues: bool = False


class BadRecordError(InputError):
    """A record without readable text; others of its file may be sound."""

    def __init__(self, path: Path, place: str, reason: str) -> None:
        """Name a record by its file and its place there."""
        super().__init__(f"{path}{place}: {reason}")
        self.short = f"{path.name}{place}: {reason}"


OnBad = Callable[[BadRecordError], None]
Reader = Callable[[Path, OnBad], Iterator[Document]]


def refuse(bad: BadRecordError) -> None:
    """Raise the error of a bad record."""
    raise bad


@dataclass
class Skipped:
    """Bad records that were left out: how many, and where the first ones are."""

    count: int = 0
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, bad: BadRecordError) -> None:
        """Count one."""
        self.count += 1
        if len(self.first) < PLACES:
            self.first.append(bad.short)


@dataclass(frozen=True)
class Corpus:
    """The documents of several files, read anew at each call of `documents`.

    Attributes:
        paths: the files.
        read: yields the documents of one of them.
        skip_bad: whether records without readable text are left out, instead of refused.
        field: whose text the reader takes, for the manifest.
    """

    paths: tuple[Path, ...]
    read: Reader
    skip_bad: bool = False
    field: str = FIELD

    @property
    def options(self) -> dict[str, object]:
        """Options of reading that are not the default, for a folder's fingerprint."""
        given: dict[str, object] = {"field": self.field} if self.field != FIELD else {}
        return given | ({"skip_bad": True} if self.skip_bad else {})

    @property
    def size(self) -> int:
        """Bytes of the files on the disk."""
        return sum(path.stat().st_size for path in self.paths)

    def check(self) -> None:
        """Look for each file and its first document, so that most mistakes show before any work.

        Raises:
            InputError: a file is missing, of an unknown kind, unreadable or without a document; if
                bad records are left out, only if no file has one.
        """
        skipped, found = Skipped(), not self.paths
        for path in self.paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            some = next(self._of(path, skipped), None) is not None
            if not some and not self.skip_bad:
                raise InputError(f"{path}: {EMPTY}")
            found |= some
        if not found:
            several = len(self.paths) - 1
            where = f"{self.paths[0]}" + (f" and {several:,} more" if several else "")
            bad = f"; {skipped.count} bad records, {skipped.first[0]}"
            raise InputError(f"{where}: {EMPTY}{bad}")

    def documents(
        self,
        report: Callable[[int], object] = lambda consumed: None,
        skipped: Skipped | None = None,
    ) -> Iterator[Document]:
        """Yield all documents, long ones in parts.

        Args:
            report: gets the bytes read so far.
            skipped: counts records that are left out.

        Raises:
            InputError: a file or a record cannot be read.
        """
        finished, skipped = 0, skipped or Skipped()
        for path in self.paths:
            for document in self._of(path, skipped):
                report(finished + document.consumed)
                yield document
            finished += path.stat().st_size
        report(finished)

    def _of(self, path: Path, skipped: Skipped) -> Iterator[Document]:
        """Yield the documents of a file; one without any is a bad record that may be skipped."""
        on_bad: OnBad = skipped.add if self.skip_bad else refuse
        found, before, documents = False, skipped.count, self.read(path, on_bad)
        for document in documents if path.stat().st_size else ():
            found = True
            yield document
        if self.skip_bad and not found and skipped.count == before:
            skipped.add(BadRecordError(path, "", EMPTY))


def parts(texts: Iterable[str]) -> Iterator[str]:
    """Yield a document in parts of at most `PART_CHARACTERS`, cut behind the last end of a line.

    Where no line ends the cut is behind white space, and without that anywhere. The parts do not
    depend on how ``texts`` cut the document.
    """
    waiting = ""
    for text in texts:
        waiting += text
        while len(waiting) > PART_CHARACTERS:
            end = _cut(waiting[:PART_CHARACTERS])
            yield waiting[:end]
            waiting = waiting[end:]
    yield waiting


def _cut(text: str) -> int:
    end = text.rfind("\n") + 1 or max(text.rfind(space) for space in " \t\r\u3000") + 1
    return end or len(text)


def whole(text: str, consumed: int) -> Iterator[Document]:
    """Yield a text that is in memory as a document, in parts if it is long; nothing if blank."""
    if text.strip():
        for number, part in enumerate(parts([text])):
            yield Document(part, consumed, number > 0)


def check_apart(train: Sequence[Path], val: Sequence[Path]) -> None:
    """Check that no file is both trained on and validated on.

    Raises:
        InputError: one is.
    """
    for path in {path.resolve() for path in train} & {path.resolve() for path in val}:
        raise InputError(f"{path}: given both to train and to validate; a score would mean nothing")
