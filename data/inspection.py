"""The contents of a data folder, with every byte checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.fidelity import remarks, traits
from data.folder import (
    Manifest,
    read_manifest,
)
from data.making import (
    check_manifest,
)
from data.shards import CHECK_TOKENS, SPLITS, Split, TokenStream, check_folder
from data.tokenizer import find_tokenizer
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError, printable
from terminal import show as show_table

NAMED = 5  # files of a split


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split.

    source_bytes: UTF-8 bytes of the documents as they came, from the manifest if it says.
    text_bytes: as the bits-per-byte score counts them, after the tokenizer's normalisation.
    """

    split: Split
    shards: int
    tokens: int
    documents: int
    source_bytes: int | None
    text_bytes: int


@dataclass(frozen=True)
class FolderFacts:
    """The result of ``examine``; None if there is no manifest."""

    splits: tuple[SplitFacts, ...]
    tokenizer: AnyTokenizer
    manifest: Manifest | None


def examine(folder: Path, given_tokenizer: Path | None) -> FolderFacts:
    """Read all of a data folder: headers, lengths, ids, and the manifest's hashes if it has one.

    Raises:
        InputError: anything is missing or wrong.
    """
    check_folder(folder)
    manifest = read_manifest(folder)
    tokenizer = read_tokenizer(find_tokenizer(folder, given_tokenizer))
    streams = {split: TokenStream.open(folder, split, tokenizer.vocab_size) for split in SPLITS}
    if manifest is not None and "fingerprint" in manifest:
        _check_tokenizer(folder, manifest, tokenizer)
        check_manifest(folder, manifest, hashes=True)
    splits = tuple(_count(streams[split], split, manifest, tokenizer) for split in SPLITS)
    return FolderFacts(splits, tokenizer, manifest)


def _check_tokenizer(folder: Path, manifest: Manifest, tokenizer: AnyTokenizer) -> None:
    recorded = manifest.get("tokenizer")
    if recorded is None or recorded["sha256"] != tokenizer.sha256:
        raise InputError(
            f"{tokenizer.path}: not the tokenizer that the shards in {folder} were made with"
        )


def _count(
    stream: TokenStream, split: Split, manifest: Manifest | None, tokenizer: AnyTokenizer
) -> SplitFacts:
    stream.check_tokens()
    table = tokenizer.byte_table()
    documents = text_bytes = 0
    previous = np.array([tokenizer.bos_id])
    for start in range(0, len(stream), CHECK_TOKENS):
        tokens = stream.read(start, min(CHECK_TOKENS, len(stream) - start))
        before = np.concatenate([previous, tokens[:-1]])
        documents += int(np.count_nonzero(tokens == tokenizer.bos_id))
        text_bytes += int(table.count(before, tokens).sum())
        previous = tokens[-1:]
    recorded = ((manifest or {}).get("splits") or {}).get(split, {})
    source_bytes = recorded.get("source_bytes")
    return SplitFacts(split, len(stream.files), len(stream), documents, source_bytes, text_bytes)


def show(folder: Path, facts: FolderFacts, console: Console) -> None:
    """Print the facts as a table."""
    table = Table(title=Text(printable(folder)), title_justify="left")
    table.add_column("split")
    for heading in (
        "shards",
        "tokens",
        "documents",
        "source bytes",
        "scored bytes",
        "bytes a token",
    ):
        table.add_column(heading, justify="right")
    for split in facts.splits:
        counts = (
            split.shards,
            split.tokens,
            split.documents,
            split.source_bytes,
            split.text_bytes,
        )
        cells = ("unknown" if count is None else f"{count:,}" for count in counts)
        table.add_row(split.split, *cells, f"{split.text_bytes / split.tokens:.4f}")
    show_table(table, console)
    tokenizer = facts.tokenizer
    place = printable(tokenizer.path)
    console.print(f"tokenizer: {place}, vocabulary {tokenizer.vocab_size}", markup=False)
    console.print(f"made from: {printable(_describe(facts.manifest))}", markup=False)
    counted = {
        split.split: {"source_bytes": split.source_bytes, "scored_bytes": split.text_bytes}
        for split in facts.splits
    }
    for line in (*_left_out(facts.manifest), *remarks(traits(tokenizer), counted)):
        console.print(f"note: {line}", markup=False)


def _left_out(manifest: Manifest | None) -> Iterator[str]:
    """Yield lines: how many records a folder was made without."""
    for split, record in ((manifest or {}).get("splits") or {}).items():
        for key, what in (("skipped", "bad records"), ("equal_dropped", "equal documents")):
            found = record.get(key)
            count = found.get("count") if isinstance(found, dict) else found
            if isinstance(count, int):
                yield f"{split} without {count:,} {what}"


def _describe(manifest: Manifest | None) -> str:
    if manifest is None:
        return "unknown (no manifest)"
    source = manifest.get("source", {})
    inputs = [f"{key} {told}" for key, value in source.items() if (told := _files(value))]
    return ", ".join(inputs) or "unknown (a manifest of another program)"


def _files(value: object) -> str:
    """Return a text of a manifest's source, or the names of its files."""
    if isinstance(value, list):
        names = [str(each["name"]) for each in value if isinstance(each, dict) and "name" in each]
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more
    return value if isinstance(value, str) else ""
