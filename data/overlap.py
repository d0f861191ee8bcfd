"""Equal documents in training and validation."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Literal

from data.documents import Document
from errors import InputError

MOST = 1 << 20
"""Hashes that are kept: some 100 MB. Of more documents a share is compared, chosen by hash."""

Equal = Literal["refuse", "drop", "keep"]


class Overlap:
    """Finds documents, or parts of long ones, that are in validation, too.

    White space around a text does not count. A hash has 64 bits, so that of a billion training
    documents against a million, one in 20,000 corpora has a false match.
    """

    def __init__(self, validation: Iterable[Document], equal: Equal) -> None:
        """Read the validation documents.

        Args:
            validation: all of them.
            equal: what becomes of an equal training document: an error, left out, or kept.
        """
        self.equal: Equal = equal
        self.dropped = 0
        self._below, self._hashes = 1 << 64, set[int]()
        for document in validation:
            number = _hash(document.text)
            if number < self._below:
                self._hashes.add(number)
            if len(self._hashes) > MOST:
                self._below //= 2
                self._hashes = {each for each in self._hashes if each < self._below}

    def apart(self, training: Iterable[Document]) -> Iterator[Document]:
        """Yield the training documents that are not in validation; count the others.

        Raises:
            InputError: one is, and is to be refused.
        """
        self.dropped, number, begun = 0, 0, False
        for document in training:
            number += not document.continues
            begun = begun and document.continues
            if not self._hashes or _hash(document.text) not in self._hashes:
                yield document._replace(continues=begun)
                begun = True
                continue
            if self.equal == "refuse":
                raise InputError(
                    f"document {number:,} of the training text is in validation, too "
                    f"({document.text.strip()[:60]!r}); a score would mean nothing; give "
                    "--drop-equal to leave such documents out of training"
                )
            self.dropped += 1


def _hash(text: str) -> int:
    digest = blake2b(text.strip().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
