"""The inputs of a run or an evaluation, checked together before any slow import."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from data.folder import Manifest, foreign, read_manifest
from data.hashes import sha256_of
from data.shards import CHECK_TOKENS, SPLITS, Split, TokenStream
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
    """What a run needs besides.

    Attributes:
        train: the split, memory-mapped.
        fingerprint: SHA-256 of the contents of tokenizer and shards; empty on ranks other than a
            host's first.
    """

    train: TokenStream
    fingerprint: str


def open_inputs(
    folder: Path | None,
    tokenizer_path: Path | None,
    vocab_size: int,
    bos_id: int,
    val_max_tokens: int = 0,
) -> Inputs:
    """Map all shards of ``folder``, read each token once, and read the tokenizer.

    A token id beyond the vocabulary would end in a fault on the GPU, steps later and without a
    name; reading all tokens also warms the page cache for the loader.

    Args:
        folder: with shards, a tokenizer and a manifest; a folder without a manifest is taken as
            it is.
        tokenizer_path: in place of the folder's.
        vocab_size, bos_id: the network's.
        val_max_tokens: of the validation split that will be scored; 0: all.

    Raises:
        InputError: something is missing, corrupt, not what the manifest records, or does not fit
            the vocabulary or its BOS; or the validation split has no text to score.
    """
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    train, validation = (_opened(folder, split, vocab_size) for split in SPLITS)
    table = ByteTable.of(tokenizer)
    _check_scorable(folder, validation, table, val_max_tokens)
    streams = zip(SPLITS, (train, validation), strict=True)
    digests = [tokenizer.sha256, *(_digests(folder, split, stream) for split, stream in streams)]
    whole = hashlib.sha256("\n".join(digests).encode()).hexdigest() if all(digests) else ""
    return Inputs(validation, table, tokenizer.path, recorded, train, whole)


def open_scored(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int, bos_id: int
) -> Scored:
    """Do as `open_inputs` without the training shards, which need not be there."""
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    validation = _opened(folder, "val", vocab_size)
    _compare(folder, "val", validation)
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
    return stream


def _check_scorable(folder: Path, stream: TokenStream, table: ByteTable, most: int) -> None:
    """Raise InputError where the first ``most`` targets (0: all) stand for no text."""
    targets = min(len(stream) - 1, most or len(stream))
    for start in range(0, targets, CHECK_TOKENS):
        tokens = stream.read(start, min(CHECK_TOKENS, targets - start) + 1)
        if table.count(tokens[:-1], tokens[1:]).any():
            return
    raise InputError(
        f"{folder}: the {len(stream):,} tokens of its validation split stand for no text that "
        "can be scored; give another split"
    )


def _compare(folder: Path, split: Split, stream: TokenStream) -> None:
    """Compare a split with the manifest, if the folder has one, as `_digests` does."""
    if _recorded(folder, split):
        _digests(folder, split, stream)


def _digests(folder: Path, split: Split, stream: TokenStream) -> str:
    """Return the SHA-256 of each of a split's shards; empty on all ranks but a host's first.

    Raises:
        InputError: the shards are not those that the folder's manifest records.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return ""
    recorded = _recorded(folder, split)
    if recorded is None:
        return " ".join(sha256_of(stream.files))
    names = {path.name for path in stream.files}
    for name in sorted(names ^ set(recorded)):
        raise foreign(folder / name)
    digests = sha256_of(stream.files)
    for path, digest in zip(stream.files, digests, strict=True):
        if digest != recorded[path.name]["sha256"]:
            raise foreign(path)
    return " ".join(digests)


def _recorded(folder: Path, split: Split) -> Manifest | None:
    """Return what the folder's manifest records of a split's files; None without a record."""
    manifest = read_manifest(folder) or {}
    recorded = (manifest.get("splits") or {}).get(split)
    return recorded["files"] if recorded and "fingerprint" in manifest else None
