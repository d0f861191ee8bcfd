"""The commands of ``python -m knowledge``."""

from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

import terminal
from data.tokenizer import Tokenizer
from errors import InputError
from files import write_text
from knowledge.packing import write_scores
from knowledge.relations import DEFAULT_TABLE, TYPES, Relations
from knowledge.scores import MOST_BYTES, MOST_SCORES, TokenScores, read_scores

SHOWN = 20


def distil(nodes: Path, edges: Path, table: Path | None, model: Path, out: Path) -> None:
    """Write token scores of a graph; arguments as of ``python -m knowledge distil``."""
    # scipy and Arrow load slowly, and the other commands need neither.
    from knowledge.distil import distil as distil_scores
    from knowledge.graph import load_graph
    from knowledge.rank import pagerank

    relations, tokenizer, console = Relations.read(table or DEFAULT_TABLE), Tokenizer(model), say()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, Elapsed(), console=console) as progress:
        reports = [
            partial(_report, progress, progress.add_task(name, total=1.0, start=False))
            for name in ("nodes", "edges", "ranking", "words")
        ]
        graph = load_graph(nodes, edges, relations, *reports[:2])
        rank = pagerank(graph, reports[2])
        scores = distil_scores(graph, rank, tokenizer, reports[3])
    write_scores(out, scores)
    counts = np.bincount(graph.kinds, minlength=len(TYPES))
    kinds = ", ".join(f"{name} {n:,}" for name, n in zip(TYPES, counts, strict=True) if n)
    console.print(f"{len(graph.labels):,} nodes, {len(graph.sources):,} edges: {kinds}")
    if graph.dangling:
        console.print(f"{graph.dangling:,} edges left out: they name nodes that are not there")
    _show(out, scores, tokenizer, console)


def _report(progress: Progress, task: TaskID, share: float) -> None:
    progress.start_task(task)
    progress.update(task, completed=share)


def edges(folder: Path, tokenizer: Path | None, rows: int, most: int, out: Path) -> None:
    """Write edges of each kind; arguments as of ``python -m knowledge edges``.

    Raises:
        InputError: there is no such text, or it has too few edges for so many rows.
    """
    from data.shards import TokenStream
    from data.tokenizer import find_tokenizer
    from data.vocabulary import read_tokenizer
    from knowledge.edges import Edges, text_of
    from knowledge.transitions import KINDS, chosen, graph_of

    of, console = read_tokenizer(find_tokenizer(folder, tokenizer)), say()
    stream = TokenStream.open(folder, "train", of.vocab_size)
    stream.check_tokens()
    text = stream.read(0, min(most, len(stream))).astype(np.int64)
    graph = graph_of(text, of.vocab_size)
    console.print(f"{len(text):,} tokens, {len(graph.edges):,} edges")
    out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        found = np.divmod(chosen(graph, kind, rows, of.vocab_size), of.vocab_size)
        tokens, before = (part.tolist() for part in found)
        known = {"kind": kind, "tokenizer": of.sha256, "tokens": tokens, "predecessors": before}
        path = out / f"{kind}.edges"
        write_text(path, text_of(Edges.model_validate(known)))
        console.print(f"{path}: {len(tokens):,} edges")


def pack(listed: Path, model: Path, out: Path) -> None:
    """Write the token scores of a JSON list."""
    from knowledge.listing import read_list

    tokenizer = Tokenizer(model)
    scores = read_list(listed, tokenizer)
    write_scores(out, scores)
    _show(out, scores, tokenizer, say())


def inspect(file: Path, model: Path | None) -> None:
    """Print what a file of token scores holds.

    Raises:
        InputError: it is no such file, or of another tokenizer.
    """
    scores = read_scores(file)
    tokenizer = Tokenizer(model) if model else None
    if tokenizer and tokenizer.sha256 != scores.tokenizer:
        raise InputError(f"{file}: made for another tokenizer than {tokenizer.path}")
    _show(file, scores, tokenizer, say())


def _show(path: Path, scores: TokenScores, tokenizer: Tokenizer | None, console: Console) -> None:
    """Print sizes, tokenizer and the highest scores."""
    console.print(
        f"{path}: {path.stat().st_size} bytes of at most {MOST_BYTES}; {len(scores.ids)} scores of "
        f"at most {MOST_SCORES}, mean {scores.dense().mean():.3f} over {scores.vocab_size:,} tokens"
    )
    console.print(f"tokenizer: sha256 {scores.tokenizer}")
    name = tokenizer.processor.id_to_piece if tokenizer else str
    for place in np.argsort(-scores.scores, kind="stable")[:SHOWN]:
        console.print(f"{scores.scores[place]:6.3f}  {name(int(scores.ids[place]))}")


def say() -> Console:
    """Return where the commands print."""
    return terminal.console()
