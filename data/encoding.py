"""Documents to tokens: in parallel, in order, a bounded number of them in memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from data.documents import Document
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError

CHUNK_CHARACTERS = 1 << 20
CHUNKS_AHEAD = 4

Chunk = list[tuple[str, bool]]
"""Texts, and whether each goes on with the document before."""


@dataclass(frozen=True)
class Encoded:
    """A chunk's tokens, uint16; the documents that begin in it; UTF-8 bytes of its text."""

    tokens: np.ndarray
    documents: int
    source_bytes: int


def encoded(documents: Iterable[Document], model: Path, workers: int) -> Iterator[Encoded]:
    """Encode on ``workers`` processes; the results come in order.

    A long document's parts are encoded each by itself and joined.

    Raises:
        InputError: processes cannot be started, or one was killed.
    """
    chunks = _chunks(documents)
    if workers == 1:
        tokenizer = read_tokenizer(model)
        yield from (_encode(tokenizer, chunk) for chunk in chunks)
        return
    pool, pending = _pool(workers, model), deque[Future[Encoded]]()
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


def _pool(workers: int, model: Path) -> ProcessPoolExecutor:
    try:
        return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (model,))
    except OSError as error:
        # Its queues are locked by semaphores in shared memory.
        raise InputError(
            f"no {workers} processes without /dev/shm ({error.strerror}); give --workers 1"
        ) from None


def _chunks(documents: Iterable[Document]) -> Iterator[Chunk]:
    """Yield documents in lists of about a million characters, which are worth a message."""
    chunk: Chunk = []
    characters = 0
    for document in documents:
        chunk.append((document.text, document.continues))
        characters += len(document.text)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode(tokenizer: AnyTokenizer, chunk: Chunk) -> Encoded:
    texts = [text for text, _ in chunk]
    source_bytes = sum(len(text.encode()) for text in texts)
    begun = sum(not continues for _, continues in chunk)
    if begun == len(chunk):
        return Encoded(tokenizer.encode_documents(texts), begun, source_bytes)
    tokens = [
        np.array(tokenizer.encode(text), dtype=np.uint16)
        if continues
        else tokenizer.encode_documents([text])
        for text, continues in chunk
    ]
    return Encoded(np.concatenate(tokens), begun, source_bytes)


_worker_tokenizer: "AnyTokenizer | None" = None


def _start_worker(model: Path) -> None:
    global _worker_tokenizer
    _worker_tokenizer = read_tokenizer(model)


def _encode_in_worker(chunk: Chunk) -> Encoded:
    assert _worker_tokenizer is not None
    return _encode(_worker_tokenizer, chunk)
