"""From documents to a data folder: in parallel, and byte for byte the same for any parallelism."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from data.documents import Corpus, Document, Skipped, check_apart
from data.encoding import encoded
from data.fidelity import remarks, traits
from data.folder import (
    Manifest,
)
from data.making import (
    already_made,
    describe_shard,
    whole_folder,
    write_manifest,
)
from data.overlap import Equal, Overlap
from data.shards import MAX_SHARD_TOKENS, SPLITS, TOKEN, Split, shard_name, write_shard
from data.tokenizer import (
    BYTE_PAIRS_NAME,
    TOKENIZER_NAME,
    Normalisation,
    Tokenizer,
    check_vocabulary_size,
    train_tokenizer,
)
from data.vocabulary import read_tokenizer
from errors import InputError
from files import sha256

SHARD_TOKENS = 100_000_000
LEAST_SHARD_TOKENS = 1000  # fewer take more files than a process may open


@dataclass(frozen=True)
class Options:
    """How a folder is made.

    tokenizer: a model to use, or the size of the vocabulary to train one with.
    workers: processes that encode; it changes the speed and nothing else.
    equal: what becomes of a training document that is in validation, too.
    normalisation: of a trained tokenizer.
    """

    tokenizer: Path | int
    shard_tokens: int = SHARD_TOKENS
    workers: int = 1
    equal: Equal = "refuse"
    normalisation: Normalisation = "identity"

    def check(self) -> None:
        """Check the options; raise InputError if a value is out of range or no tokenizer loads."""
        if not LEAST_SHARD_TOKENS <= self.shard_tokens <= MAX_SHARD_TOKENS:
            raise InputError(
                f"--shard-tokens {self.shard_tokens}: give {LEAST_SHARD_TOKENS} to "
                f"{MAX_SHARD_TOKENS}"
            )
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1")
        if isinstance(self.tokenizer, int):
            check_vocabulary_size(self.tokenizer)
        elif self.normalisation != "identity":
            raise InputError(
                f"--normalise {self.normalisation}: {self.tokenizer} normalises as it was trained "
                "to; it takes --train-tokenizer"
            )
        else:
            read_tokenizer(self.tokenizer)


def prepare(train: Corpus, val: Corpus, options: Options, out: Path, console: Console) -> None:
    """Make the data folder ``out`` from files of text; nothing to do where it is there already.

    Raises:
        InputError: an input or option is wrong, or ``out`` holds something else.
    """
    options.check()
    check_apart(train.paths, val.paths)
    for corpus in (train, val):
        corpus.check()
    source = {
        "kind": "prepare",
        "train": _describe_files(train),
        "val": _describe_files(val),
        **describe_options(options),
        **train.options,
        **({"equal": options.equal} if options.equal != "refuse" else {}),
    }
    if already_made(out, source):
        console.print(f"{out}: already there")
    else:
        make_folder(train, val, options, out, source, console)


def describe_options(options: Options) -> Manifest:
    """Return the options that decide a folder's bytes, for its fingerprint."""
    if isinstance(options.tokenizer, int):
        tokenizer: Manifest = {"trained": options.tokenizer}
        if options.normalisation != "identity":
            tokenizer["normalisation"] = options.normalisation
    else:
        tokenizer = {"sha256": read_tokenizer(options.tokenizer).sha256}
    return {"tokenizer": tokenizer, "shard_tokens": options.shard_tokens}


def _describe_files(corpus: Corpus) -> list[Manifest]:
    return [{"name": path.name, "sha256": sha256(path)} for path in corpus.paths]


def make_folder(
    train: Corpus, val: Corpus, options: Options, out: Path, source: Manifest, console: Console
) -> None:
    """Write tokenizer, shards and manifest to ``out``, which is whole or absent at any time.

    Raises:
        InputError: as ``prepare``, found while reading.
    """
    columns = (TextColumn("{task.description:>14}"), BarColumn(), DownloadColumn())
    with (
        whole_folder(out) as folder,
        Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console) as bar,
    ):
        compared = () if options.equal == "keep" else _watched(val, bar, "compare")
        overlap = Overlap(compared, options.equal)
        if isinstance(options.tokenizer, int):
            model = folder / TOKENIZER_NAME
            sample = overlap.apart(_watched(train, bar, "read a sample"))
            texts = (document.text for document in sample)
            train_tokenizer(texts, options.tokenizer, model, options.normalisation)
        else:
            model = _place(options.tokenizer, folder)
        skipped: dict[Split, Skipped] = {split: Skipped() for split in SPLITS}
        read: dict[Split, Iterable[Document]] = {
            "train": overlap.apart(_watched(train, bar, "train", skipped["train"])),
            "val": _watched(val, bar, "val", skipped["val"]),
        }
        splits: Manifest = {
            split: _write_split(folder, split, documents, model, options)
            for split, documents in read.items()
        }
        _add_left_out(splits, skipped, overlap)
        found = traits(read_tokenizer(model))
        write_manifest(folder, source, read_tokenizer(model), splits)
    for line in (*_summary(splits), *remarks(found, splits)):
        console.print(f"{out}: {line}")


def _place(given: Path, folder: Path) -> Path:
    """Put the tokenizer that the user gave into the folder; return its file there."""
    tokenizer = read_tokenizer(given)
    if isinstance(tokenizer, Tokenizer):
        return Path(shutil.copyfile(given, folder / TOKENIZER_NAME))
    tokenizer.save(folder / BYTE_PAIRS_NAME)
    return folder / BYTE_PAIRS_NAME


def _watched(
    corpus: Corpus, bar: Progress, description: str, skipped: Skipped | None = None
) -> Iterator[Document]:
    task = bar.add_task(description, total=corpus.size)
    return corpus.documents(lambda consumed: bar.update(task, completed=consumed), skipped)


def _write_split(
    folder: Path, split: Split, documents: Iterable[Document], model: Path, options: Options
) -> Manifest:
    writer = _ShardWriter(folder, split, options.shard_tokens)
    tokenizer = read_tokenizer(model)
    table, previous = tokenizer.byte_table(), np.array([tokenizer.bos_id])
    count = source_bytes = scored_bytes = 0
    for chunk in encoded(documents, model, options.workers):
        writer.add(chunk.tokens)
        count += chunk.documents
        source_bytes += chunk.source_bytes
        before = np.concatenate([previous, chunk.tokens])
        scored_bytes += int(table.count(before[:-1], chunk.tokens).sum())
        previous = before[-1:]
    files = {path.name: describe_shard(path) for path in writer.finish()}
    if not files:
        raise InputError(f"the {split} files hold no document that is left")
    return {
        "tokens": sum(shard["tokens"] for shard in files.values()),
        "documents": count,
        "source_bytes": source_bytes,
        "scored_bytes": scored_bytes,
        "files": files,
    }


def _add_left_out(splits: Manifest, skipped: dict[Split, Skipped], overlap: Overlap) -> None:
    """Record what was left out, as far as anything was."""
    for split, records in skipped.items():
        if records.count:
            splits[split]["skipped"] = asdict(records)
    if overlap.dropped:
        splits["train"]["equal_dropped"] = overlap.dropped


def _summary(splits: Manifest) -> Iterator[str]:
    for split, made in splits.items():
        yield (
            f"{split}: {made['tokens']:,} tokens, {made['documents']:,} documents, "
            f"{made['source_bytes']:,} bytes of text"
        )
        if skipped := made.get("skipped"):
            yield f"{split}: {skipped['count']:,} bad records skipped; the first:"
            yield from (f"  {place}" for place in skipped["first"])
        if dropped := made.get("equal_dropped"):
            yield f"{split}: {dropped:,} documents left out that are in validation"


class _ShardWriter:
    """Cuts a flow of tokens into shards of equal length, the last one shorter."""

    def __init__(self, folder: Path, split: Split, shard_tokens: int) -> None:
        self._folder = folder
        self._split: Split = split
        self._tokens = np.empty(shard_tokens, dtype=TOKEN)
        self._filled = 0
        self._paths: list[Path] = []

    def add(self, tokens: np.ndarray) -> None:
        while len(tokens):
            part = tokens[: len(self._tokens) - self._filled]
            self._tokens[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            tokens = tokens[len(part) :]
            if self._filled == len(self._tokens):
                self._write()

    def finish(self) -> list[Path]:
        if self._filled:
            self._write()
        return self._paths

    def _write(self) -> None:
        path = self._folder / shard_name(self._split, len(self._paths))
        write_shard(path, self._tokens[: self._filled])
        self._paths.append(path)
        self._filled = 0
