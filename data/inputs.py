"""The inputs of a run or an evaluation, checked together before any slow import."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.folder import Manifest, foreign, read_manifest
from data.hashes import sha256_of
from data.shards import CHECK_TOKENS, SPLITS, Split, TokenStream
from data.tokenizer import ByteTable, find_tokenizer
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError


@dataclass(frozen=True)
class Scored:
    """What a score needs.

    Attributes:
        validation: the split, memory-mapped.
        byte_table: bytes of each token.
        tokenizer: its file, or the name of an encoding.
        vocab_size, bos_id: the tokenizer's.
        verified: whether a manifest beside the shards records these shards and this tokenizer.
    """

    validation: TokenStream
    byte_table: ByteTable
    tokenizer: Path
    vocab_size: int
    bos_id: int
    verified: bool

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the tokenizer and of each validation shard, by file name."""
        shards = self.validation.files
        names = (path.name for path in shards)
        found = {self.tokenizer.name: read_tokenizer(self.tokenizer).sha256}
        return found | dict(zip(names, sha256_of(shards), strict=True))


@dataclass(frozen=True)
class Inputs(Scored):
    """What a run needs besides.

    Attributes:
        train: the split, memory-mapped.
        fingerprint: SHA-256 of the contents of tokenizer and shards; empty on ranks other than a
            host's first.
        remarks: lines on what the tokenizer does to text.
    """

    train: TokenStream
    fingerprint: str
    remarks: tuple[str, ...]


def open_inputs(
    folder: Path | None,
    tokenizer_path: Path | None,
    vocab_size: int | None,
    bos_id: int | None,
    val_max_tokens: int = 0,
    done: Callable[[str], object] = lambda phase: None,
) -> Inputs:
    """Map all shards of ``folder``, read each token once, and read the tokenizer.

    A token id beyond the vocabulary would end in a fault on the GPU, steps later and without a
    name; reading all tokens also warms the page cache for the loader.

    Args:
        folder: with shards, a tokenizer and a manifest; a folder without a manifest is taken as
            it is.
        tokenizer_path: in place of the folder's.
        vocab_size, bos_id: the network's; None: it will have the tokenizer's.
        val_max_tokens: of the validation split that will be scored; 0: all.
        done: is called at the end of the phases "data" and "hashes of data".

    Raises:
        InputError: something is missing, corrupt, not what the manifest records, or does not fit
            the vocabulary or its BOS; or the validation split has no text to score.
    """
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    train, validation = (_opened(folder, split, tokenizer.vocab_size) for split in SPLITS)
    scored = _scored(validation, tokenizer, recorded)
    _check_scorable(folder, validation, scored.byte_table, val_max_tokens)
    done("data")
    streams = zip(SPLITS, (train, validation), strict=True)
    digests = [tokenizer.sha256, *(_digests(folder, split, stream) for split, stream in streams)]
    whole = hashlib.sha256("\n".join(digests).encode()).hexdigest() if all(digests) else ""
    done("hashes of data")
    said = _remarks(folder, tokenizer)
    return Inputs(**vars(scored), train=train, fingerprint=whole, remarks=said)


def open_scored(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int | None, bos_id: int | None
) -> Scored:
    """Do as `open_inputs` without the training shards, which need not be there."""
    folder, tokenizer, recorded = _checked(folder, tokenizer_path, vocab_size, bos_id)
    validation = _opened(folder, "val", tokenizer.vocab_size)
    _compare(folder, "val", validation)
    return _scored(validation, tokenizer, recorded)


def _scored(validation: TokenStream, tokenizer: AnyTokenizer, recorded: bool) -> Scored:
    sizes = tokenizer.vocab_size, tokenizer.bos_id
    return Scored(validation, tokenizer.byte_table(), tokenizer.path, *sizes, recorded)


def _checked(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int | None, bos_id: int | None
) -> tuple[Path, AnyTokenizer, bool]:
    """Return the folder, its tokenizer or the one given, and whether a manifest records that."""
    if folder is None:
        raise InputError(
            "no data: give --data DIR; the project's `python -m data builtin` makes one"
        )
    tokenizer = read_tokenizer(find_tokenizer(folder, tokenizer_path))
    fits(tokenizer, vocab_size, bos_id)
    recorded = (read_manifest(folder) or {}).get("tokenizer")
    if recorded and recorded["sha256"] != tokenizer.sha256:
        raise foreign(tokenizer.path)
    return folder, tokenizer, bool(recorded)


def _remarks(folder: Path, tokenizer: AnyTokenizer) -> tuple[str, ...]:
    """Return what the tokenizer does to text; nothing in a submission, which leaves that out."""
    try:
        from data.fidelity import remarks, traits
    except ModuleNotFoundError:
        return ()
    return tuple(remarks(traits(tokenizer), (read_manifest(folder) or {}).get("splits") or {}))


def vocabulary_of(
    folder: Path, tokenizer_path: Path | None, vocab_size: int | None, bos_id: int | None
) -> tuple[int, int]:
    """Return vocabulary and BOS of a tokenizer; arguments and errors as for `open_inputs`."""
    _, tokenizer, _ = _checked(folder, tokenizer_path, vocab_size, bos_id)
    return tokenizer.vocab_size, tokenizer.bos_id


def fits(tokenizer: AnyTokenizer, vocab_size: int | None, bos_id: int | None) -> None:
    """Check that a network of this vocabulary and BOS can use ``tokenizer``; None: any.

    Raises:
        InputError: it cannot.
    """
    path, size, bos = tokenizer.path, tokenizer.vocab_size, tokenizer.bos_id
    if vocab_size not in (None, size):
        raise InputError(
            f"{path}: has {size} tokens, but the model's vocabulary is {vocab_size}; "
            f"train with --vocab-size {size}, or give the model's own tokenizer"
        )
    if bos_id not in (None, bos):
        raise InputError(
            f"{path}: its BOS is token {bos}, not bos_id {bos_id}; give --bos-id {bos}"
        )


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
