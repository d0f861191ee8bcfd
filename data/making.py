"""A data folder is made whole or not at all, with a manifest that records its sources."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sentencepiece

from data.fidelity import traits
from data.folder import MANIFEST_NAME, Manifest, foreign, read_manifest
from data.shards import read_header
from data.vocabulary import AnyTokenizer
from errors import InputError
from files import sha256, sync_folder, write_text

FORMAT = 1


def fingerprint(source: Manifest) -> str:
    """Return the SHA-256 of a folder's inputs and options."""
    canonical = json.dumps({"format": FORMAT, **source}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``out`` that becomes ``out`` if the block succeeds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        partial.mkdir()
        yield partial
        partial.replace(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(out)  # nobody knows the other name
        raise
    sync_folder(out.parent)


def already_made(out: Path, source: Manifest) -> bool:
    """Whether ``out`` is whole and made from ``source``; False where there is nothing yet.

    Raises:
        InputError: something else is there, or the folder has lost a shard.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    manifest = read_manifest(out) if out.is_dir() else None
    if manifest is None or manifest.get("fingerprint") != fingerprint(source):
        raise InputError(
            f"{out}: exists and was not made from the same inputs and options; "
            "remove it or give another --out"
        )
    check_manifest(out, manifest, hashes=False)
    return True


def write_source(folder: Path, source: Manifest) -> None:
    """Begin a folder that is filled in place: a manifest without ``splits`` is unfinished."""
    write_text(folder / MANIFEST_NAME, json.dumps({"source": source}, indent=2) + "\n")


def write_manifest(
    folder: Path, source: Manifest, tokenizer: AnyTokenizer, splits: Manifest
) -> None:
    """Write the manifest, last of all files: its ``splits`` mark a complete folder.

    Nothing in it depends on the clock or on where the folder lies, so equal inputs give equal
    folders.
    """
    manifest = {
        "source": source,
        "fingerprint": fingerprint(source),
        "sentencepiece": sentencepiece.__version__,
        "tokenizer": {
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
            "traits": traits(tokenizer),
        },
        "splits": splits,
    }
    write_text(folder / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")


def describe_shard(path: Path) -> Manifest:
    """Return the manifest's record of a shard."""
    return {"tokens": read_header(path), "sha256": sha256(path)}


def check_manifest(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Compare each shard with what the manifest records of it; hashes read every byte.

    Raises:
        InputError: the folder is unfinished, or a shard is missing or another.
    """
    splits = manifest.get("splits")
    if not splits:
        raise InputError(f"{folder}: unfinished; run the command that makes it again")
    for split in splits.values():
        for name, recorded in split["files"].items():
            path = folder / name
            same = read_header(path) == recorded["tokens"]
            if not same or (hashes and sha256(path) != recorded["sha256"]):
                raise foreign(path)
