"""What the manifest of a data folder records."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from errors import InputError
from reading.structured import Form, read_json

MANIFEST_NAME = "manifest.json"

Manifest = dict[str, Any]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class File(Form):
    """What a manifest records of a shard."""

    tokens: int
    sha256: str


class SplitRecord(Form):
    """What a manifest records of a split."""

    files: dict[FileName, File]
    tokens: int | None = None
    documents: int | None = None
    source_bytes: int | None = None
    scored_bytes: int | None = None


class TokenizerRecord(Form):
    """What a manifest records of the tokenizer."""

    vocab_size: int
    sha256: str
    traits: list[str] = Field(default_factory=list)


class Recorded(Form):
    """The form of a manifest. One without a fingerprint is unfinished, or of another program."""

    source: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str | None = None
    tokenizer: TokenizerRecord | None = None
    splits: dict[str, SplitRecord] | None = None


def read_manifest(folder: Path) -> Manifest | None:
    """Return the folder's manifest, or None if there is none.

    Raises:
        InputError: it is no JSON object, or has another form than `Recorded`.
    """
    path = folder / MANIFEST_NAME
    if not path.exists() and not path.is_symlink():
        return None
    found = read_json(path, Recorded, "make the folder again", links=False)
    return found.model_dump(exclude_unset=True)


def foreign(path: Path) -> InputError:
    """Return the error for a file that is not the one in the manifest."""
    return InputError(
        f"{path}: not the file that {MANIFEST_NAME} records; make the folder again, or remove "
        f"{MANIFEST_NAME} if you changed the file on purpose"
    )
