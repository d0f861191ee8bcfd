"""Bytes of the text, bytes of code and artifact, seconds of training and of evaluation."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from artifact.submission.code_size import Code
from data.tokenizer import ByteTable, Tokenizer
from data.vocabulary import AnyTokenizer
from errors import InputError
from evaluation.audit.runs import Check
from evaluation.score import OnProgress, Split, Tokens
from reading.structured import read_json
from runtime import ROUNDTRIP
from runtime.records import SUMMARY, Partial, Row
from settings import Settings

TRAINING_SECONDS = EVALUATION_SECONDS = 600.0
SAME = 1e-6  # relative, of a sum in another order


def bytes_of_text(
    tokenizer: AnyTokenizer,
    table: ByteTable,
    stream: Tokens,
    progress: OnProgress = lambda done, documents: None,
) -> Check:
    """Compare the bytes that are counted with the UTF-8 bytes of each decoded document.

    Text without a token, an unknown character or a space after a boundary, counts nothing: that
    can only make a score worse.

    Args:
        tokenizer: that made the tokens.
        table: its bytes a token.
        stream: a split of whole documents.
        progress: called with (documents done, documents in all).
    """
    tokens = stream.read(0, len(stream))
    edges = np.union1d(np.flatnonzero(tokens == tokenizer.bos_id), [0, len(tokens)]).tolist()
    total = spaces = unknown = 0
    for index, (begin, end) in enumerate(pairwise(edges)):
        document = tokens[begin:end]
        previous = tokens[np.maximum(np.arange(begin, end) - 1, 0)]
        counted = int(table.count(previous, document).sum())
        decoded, uncounted, unknowns = decoded_bytes(tokenizer, table, document)
        if counted != decoded - uncounted:
            found = f"document {index}: {counted} bytes counted, but its text has {decoded}"
            return Check("bytes of text", "tokenizer", False, found)
        total, spaces, unknown = total + counted, spaces + uncounted, unknown + unknowns
        if index % 100 == 0:
            progress(index, len(edges) - 1)
    found = f"{total:,} bytes of {len(edges) - 1:,} documents, as decoded"
    found += f"; not counted: {unknown:,} unknown characters, {spaces:,} first spaces"
    return Check("bytes of text", "tokenizer", True, found)


def decoded_bytes(
    tokenizer: AnyTokenizer, table: ByteTable, document: np.ndarray
) -> tuple[int, int, int]:
    """Count the UTF-8 bytes of a document's text.

    Returns:
        the bytes without unknown characters; how many of these are spaces that begin a stretch of
        the text; how many tokens are unknown.
    """
    ids = document.astype(np.int64)
    if not isinstance(tokenizer, Tokenizer):
        return len(tokenizer.raw(ids.tolist())), 0, 0
    processor = tokenizer.processor
    breaks = np.flatnonzero(table.boundary[ids]).tolist()
    size = spaces = 0
    for begin, end in pairwise([-1, *breaks, len(ids)]):
        stretch = ids[begin + 1 : end].tolist()
        if not stretch:
            continue
        size += len(processor.decode(stretch).encode())
        # A tokenizer that puts a space before each text removes it when it decodes.
        kept = processor.decode(stretch[:1]).startswith(" ")
        spaces += bool(table.leading_space[stretch[0]]) and kept
    unknown = sum(processor.is_unknown(int(ids[place])) for place in breaks)
    return size, spaces, unknown


def read_summary(artifact: Path) -> Partial | None:
    """Return the summary of the run folder that an artifact lies in; None without one.

    Raises:
        InputError: it is a link, no JSON object, or holds other things than a summary does.
    """
    path = artifact.parent / SUMMARY
    if not path.exists() and not path.is_symlink():
        return None
    return read_json(path, Partial, "remove it to audit the artifact alone", links=False)


def size(
    artifact: Path, summary: Partial | None, code: Path, settings: Settings, limit: int
) -> Check:
    """Check the limit of code and artifact.

    Args:
        artifact: the file.
        summary: of the run, whose word on its code is compared and not taken.
        code: a submission's one file, or the project's root, which is packed as one.
        settings: which the file carries along.
        limit: bytes of both.
    """
    stored = artifact.stat().st_size
    try:
        counted = Code.of(code, settings)
    except InputError as missing:  # a file that the run read and the judge has not
        return Check("size", "artifact", None, f"not known: {missing}")
    total = counted.bytes + stored
    found = f"code {counted.bytes:,} ({code.name}) + artifact {stored:,} = "
    found += f"{total:,} of {limit:,} bytes"
    claimed = summary.code_bytes if summary else None
    if claimed is not None and claimed != counted.bytes:
        found += f"; the run counted {claimed:,} bytes of code"
    if summary and summary.artifact_bytes not in (None, stored):
        return Check("size", "artifact", False, "the summary is of another artifact")
    return Check("size", "artifact", total <= limit, found)


def of_artifact(summary: Partial | None) -> dict[str, Row]:
    """Return a run's scores of its artifact by method."""
    rows = summary.scores if summary else {}
    return {name: row for name, row in rows.items() if name.startswith(ROUNDTRIP)}


def clocks(summary: Partial | None) -> list[Check]:
    """Check that training and evaluation each took at most 600 s, by the run's own clock."""
    trained = summary.train_seconds if summary else None
    seconds = [row.seconds for row in of_artifact(summary).values()]
    return [
        clock("training clock", trained, TRAINING_SECONDS),
        clock("evaluation clock", sum(seconds) if seconds else None, EVALUATION_SECONDS),
    ]


def clock(name: str, seconds: float | None, limit: float) -> Check:
    """Check one clock."""
    if seconds is None:
        return Check(name, "run", None, "not known: no finished run's summary.json in its folder")
    return Check(name, "run", seconds <= limit, f"{seconds:.1f} of {limit:.0f} s")


def fault_of_row(row: Row) -> str:
    """Say how a row contradicts itself; empty if it does not."""
    if not row.bytes or not row.tokens:
        return "a score of no tokens, or of no bytes"
    made = row.nats * row.tokens / row.bytes / math.log(2)
    if math.isclose(made, row.bpb, rel_tol=SAME):
        return ""
    return f"bpb {row.bpb:.6f}, but its nats, tokens and bytes make {made:.6f}"


def whole_split(summary: Partial | None, split: Split) -> Check:
    """Check that the run's scores of the artifact are of all targets and all their bytes.

    A score of the split's beginning is none of the split: that is not known then.

    Args:
        summary: of the run.
        split: that it scored, whatever its own limit.
    """
    rows = of_artifact(summary)
    if not rows:
        return Check("whole split", "run", None, "not known: no scores of a run are in its folder")
    every = len(split.stream) - 1
    tokens = split.stream.read(0, every + 1)
    counted = split.byte_table.count(tokens[:-1], tokens[1:])
    for name, row in rows.items():
        wanted = (min(row.tokens, every), int(counted[: row.tokens].sum()))
        if (row.tokens, row.bytes) != wanted:
            found = f"{name}: {row.tokens:,} tokens and {row.bytes:,} bytes, but the split has "
            return Check("whole split", "run", False, found + f"{wanted[0]:,} and {wanted[1]:,}")
    fewest = min(row.tokens for row in rows.values())
    if fewest < every:
        found = f"a score of a part: the first {fewest:,} of {every:,} tokens (val_max_tokens)"
        return Check("whole split", "run", None, found)
    found = f"{', '.join(rows)}: {every:,} tokens, {int(counted.sum()):,} bytes"
    return Check("whole split", "run", True, found)
