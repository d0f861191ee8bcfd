"""The inputs of a run or an evaluation, checked together before any slow import."""

import os
from dataclasses import dataclass
from pathlib import Path

from data.folder import foreign, read_manifest
from data.hashes import sha256_of
from data.shards import SPLITS, Split, TokenStream
from data.tokenizer import ByteTable, Tokenizer, check_vocabulary, find_tokenizer
from errors import InputError


@dataclass(frozen=True)
class Scored:
    """What a score needs.

    Attributes:
        validation: the split, memory-mapped.
        byte_table: bytes of each token.
        tokenizer: its file.
        verified: whether a manifest beside the shards records these shards and this tokenizer.
    """

    validation: TokenStream
    byte_table: ByteTable
    tokenizer: Path
    verified: bool


@dataclass(frozen=True)
class Inputs(Scored):
    """What a run needs: the training split, memory-mapped, besides."""

    train: TokenStream


def open_inputs(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int, bos_id: int
) -> Inputs:
    """Map all shards of ``folder``, read each token once, and read the tokenizer.

    A token id beyond the vocabulary would end in a fault on the GPU, steps later and without a
    name; reading all tokens also warms the page cache for the loader.

    Args:
        folder: with shards, a tokenizer and a manifest; a folder without a manifest is taken as
            it is.
        tokenizer_path: in place of the folder's.
        vocab_size, bos_id: the network's.

    Raises:
        InputError: something is missing, corrupt, not what the manifest records, or does not fit
            the vocabulary or its BOS.
    """
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    train, validation = (_opened(folder, split, vocab_size) for split in SPLITS)
    return Inputs(validation, ByteTable.of(tokenizer), tokenizer.path, recorded, train)


def open_scored(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int, bos_id: int
) -> Scored:
    """Do as `open_inputs` without the training shards, which need not be there."""
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    validation = _opened(folder, "val", vocab_size)
    return Scored(validation, ByteTable.of(tokenizer), tokenizer.path, recorded)


def _checked(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int, bos_id: int
) -> tuple[Path, Tokenizer, bool]:
    """Return the folder, its tokenizer or the one given, and whether a manifest records that."""
    if folder is None:
        raise InputError("no data: give --data DIR (python -m data builtin makes a first one)")
    tokenizer = Tokenizer(find_tokenizer(folder, tokenizer_path))
    check_vocabulary(tokenizer, vocab_size)
    if tokenizer.bos_id != bos_id:
        raise InputError(f"the tokenizer's BOS is token {tokenizer.bos_id}, not bos_id {bos_id}")
    recorded = (read_manifest(folder) or {}).get("tokenizer")
    if recorded and recorded["sha256"] != tokenizer.sha256:
        raise foreign(tokenizer.path)
    return folder, tokenizer, bool(recorded)


def _opened(folder: Path, split: Split, vocab_size: int) -> TokenStream:
    stream = TokenStream.open(folder, split, vocab_size)
    stream.check_tokens()
    _compare(folder, split, stream)
    return stream


def _compare(folder: Path, split: Split, stream: TokenStream) -> None:
    """Raise InputError where the shards are not those that the folder's manifest records.

    One rank of a host does it for all.
    """
    manifest = read_manifest(folder) or {}
    recorded = (manifest.get("splits") or {}).get(split)
    if not recorded or "fingerprint" not in manifest or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    names = {path.name for path in stream.files}
    for name in sorted(names ^ set(recorded["files"])):
        raise foreign(folder / name)
    for path, digest in zip(stream.files, sha256_of(stream.files), strict=True):
        if digest != recorded["files"][path.name]["sha256"]:
            raise foreign(path)
