"""From documents to a data folder: in parallel, and byte for byte the same for any parallelism."""

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from data.documents import Corpus, check_apart
from data.folder import Manifest, already_made, describe_shard, whole_folder, write_manifest
from data.shards import MAX_SHARD_TOKENS, TOKEN, Split, shard_name, write_shard
from data.tokenizer import (
    BYTE_PAIRS_NAME,
    TOKENIZER_NAME,
    Tokenizer,
    check_vocabulary_size,
    train_tokenizer,
)
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError
from files import sha256

SHARD_TOKENS = 100_000_000
CHUNK_CHARACTERS = 1 << 20
CHUNKS_AHEAD = 4


@dataclass(frozen=True)
class Options:
    """How a folder is made.

    tokenizer: a model to use, or the size of the vocabulary to train one with.
    workers: processes that encode; it changes the speed and nothing else.
    """

    tokenizer: Path | int
    shard_tokens: int = SHARD_TOKENS
    workers: int = 1

    def check(self) -> None:
        """Check the options; raise InputError if a value is out of range or no tokenizer loads."""
        if not 1 <= self.shard_tokens <= MAX_SHARD_TOKENS:
            raise InputError(f"--shard-tokens {self.shard_tokens}: give 1 to {MAX_SHARD_TOKENS}")
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: give at least 1")
        if isinstance(self.tokenizer, int):
            check_vocabulary_size(self.tokenizer)
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
    }
    if already_made(out, source):
        console.print(f"{out}: already there")
    else:
        make_folder(train, val, options, out, source, console)


def describe_options(options: Options) -> Manifest:
    """Return the options that decide a folder's bytes, for its fingerprint."""
    given = options.tokenizer
    tokenizer = (
        {"trained": given} if isinstance(given, int) else {"sha256": read_tokenizer(given).sha256}
    )
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
        if isinstance(options.tokenizer, int):
            model = folder / TOKENIZER_NAME
            train_tokenizer(_watched(train, bar, "read a sample"), options.tokenizer, model)
        else:
            model = _place(options.tokenizer, folder)
        corpora: dict[Split, Corpus] = {"train": train, "val": val}
        splits = {
            split: _write_split(folder, split, _watched(corpus, bar, split), model, options)
            for split, corpus in corpora.items()
        }
        write_manifest(folder, source, read_tokenizer(model), splits)
    for split, made in splits.items():
        console.print(
            f"{out}: {split}: {made['tokens']:,} tokens, {made['documents']:,} documents, "
            f"{made['source_bytes']:,} bytes of text"
        )


def _place(given: Path, folder: Path) -> Path:
    """Put the tokenizer that the user gave into the folder; return its file there."""
    tokenizer = read_tokenizer(given)
    if isinstance(tokenizer, Tokenizer):
        return Path(shutil.copyfile(given, folder / TOKENIZER_NAME))
    tokenizer.save(folder / BYTE_PAIRS_NAME)
    return folder / BYTE_PAIRS_NAME


def _watched(corpus: Corpus, bar: Progress, description: str) -> Iterator[str]:
    task = bar.add_task(description, total=corpus.size)
    return corpus.documents(lambda consumed: bar.update(task, completed=consumed))


def _write_split(
    folder: Path, split: Split, documents: Iterable[str], model: Path, options: Options
) -> Manifest:
    writer = _ShardWriter(folder, split, options.shard_tokens)
    count = source_bytes = 0
    for encoded in _encode_in_order(_chunks(documents), model, options.workers):
        writer.add(encoded.tokens)
        count += encoded.documents
        source_bytes += encoded.source_bytes
    files = {path.name: describe_shard(path) for path in writer.finish()}
    return {
        "tokens": sum(shard["tokens"] for shard in files.values()),
        "documents": count,
        "source_bytes": source_bytes,
        "files": files,
    }


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


@dataclass(frozen=True)
class _Encoded:
    tokens: np.ndarray
    documents: int
    source_bytes: int


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    """Yield documents in lists of about a million characters, which are worth a message."""
    chunk: list[str] = []
    characters = 0
    for text in documents:
        chunk.append(text)
        characters += len(text)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode_in_order(chunks: Iterable[list[str]], model: Path, workers: int) -> Iterator[_Encoded]:
    """Encode on ``workers`` processes, a bounded number of chunks ahead, results in order."""
    if workers == 1:
        tokenizer = read_tokenizer(model)
        yield from (_encode(tokenizer, chunk) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (model,))
    pending: deque[Future[_Encoded]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_encode_in_worker, chunk))
            if len(pending) == CHUNKS_AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed (out of memory?); give fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(tokenizer: AnyTokenizer, chunk: list[str]) -> _Encoded:
    source_bytes = sum(len(text.encode()) for text in chunk)
    return _Encoded(tokenizer.encode_documents(chunk), len(chunk), source_bytes)


_worker_tokenizer: "AnyTokenizer | None" = None


def _start_worker(model: Path) -> None:
    global _worker_tokenizer
    _worker_tokenizer = read_tokenizer(model)


def _encode_in_worker(chunk: list[str]) -> _Encoded:
    assert _worker_tokenizer is not None
    return _encode(_worker_tokenizer, chunk)
