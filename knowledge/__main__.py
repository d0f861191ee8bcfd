"""``python -m knowledge``: distil a graph to token scores, or look at what was distilled."""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from data.tokenizer import Tokenizer
from errors import InputError
from knowledge.relations import DEFAULT_TABLE, TYPES, Relations
from knowledge.scores import MOST_BYTES, MOST_SCORES, TokenScores, read_scores, write_scores

SHOWN = 20


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="python -m knowledge",
        description="Distil a knowledge graph to scores of tokens, and look at such scores.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_distil(commands.add_parser("distil", help="make token scores from a graph"))
    _add_pack(commands.add_parser("pack", help="make token scores from a list of them"))
    _add_inspect(commands.add_parser("inspect", help="say what a file of token scores holds"))
    return parser


def _add_distil(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Rank the nodes of a graph and distil the ranks to the scores of a tokenizer's tokens. "
        "Files are .tsv, .csv or .jsonl, plain or .gz, .xz, .zst."
    )
    file = {"type": Path, "required": True, "metavar": "FILE"}
    parser.add_argument("--nodes", help="columns id, label", **file)
    parser.add_argument("--edges", help="columns source, relation, target", **file)
    parser.add_argument(
        "--relations",
        type=Path,
        default=DEFAULT_TABLE,
        metavar="TOML",
        help="types and weights of raw relation names; default: WordNet's names and the types' own",
    )
    _add_tokenizer_and_out(parser)
    parser.set_defaults(run=_distil)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make token scores from a JSON list {token id: score}, as PR #1081's."
    parser.add_argument("list", type=Path, metavar="JSON")
    _add_tokenizer_and_out(parser)
    parser.set_defaults(run=_pack)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say what a file of token scores holds, the highest first."
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--tokenizer", type=Path, metavar="MODEL", help="to name the tokens by")
    parser.set_defaults(run=_inspect)


def _add_tokenizer_and_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def _distil(arguments: argparse.Namespace, console: Console) -> None:
    # scipy and Arrow take their time to load, and the other commands need neither.
    from knowledge.distil import distil
    from knowledge.graph import load_graph
    from knowledge.rank import pagerank

    relations, tokenizer = Relations.read(arguments.relations), Tokenizer(arguments.tokenizer)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, Elapsed(), console=console) as progress:
        reports = [
            partial(_report, progress, progress.add_task(name, total=1.0, start=False))
            for name in ("nodes", "edges", "ranking", "words")
        ]
        graph = load_graph(arguments.nodes, arguments.edges, relations, *reports[:2])
        rank = pagerank(graph, reports[2])
        scores = distil(graph, rank, tokenizer, reports[3])
    write_scores(arguments.out, scores)
    counts = np.bincount(graph.kinds, minlength=len(TYPES))
    kinds = ", ".join(f"{name} {n:,}" for name, n in zip(TYPES, counts, strict=True) if n)
    console.print(f"{len(graph.labels):,} nodes, {len(graph.sources):,} edges: {kinds}")
    if graph.dangling:
        console.print(f"{graph.dangling:,} edges left out: they name nodes that are not there")
    _show(arguments.out, scores, tokenizer, console)


def _report(progress: Progress, task: TaskID, share: float) -> None:
    progress.start_task(task)
    progress.update(task, completed=share)


def _pack(arguments: argparse.Namespace, console: Console) -> None:
    from knowledge.listing import read_list

    tokenizer = Tokenizer(arguments.tokenizer)
    scores = read_list(arguments.list, tokenizer)
    write_scores(arguments.out, scores)
    _show(arguments.out, scores, tokenizer, console)


def _inspect(arguments: argparse.Namespace, console: Console) -> None:
    scores = read_scores(arguments.file)
    tokenizer = arguments.tokenizer and Tokenizer(arguments.tokenizer)
    if tokenizer and tokenizer.sha256 != scores.tokenizer:
        raise InputError(f"{arguments.file}: made for another tokenizer than {tokenizer.path}")
    _show(arguments.file, scores, tokenizer, console)


def _show(path: Path, scores: TokenScores, tokenizer: Tokenizer | None, console: Console) -> None:
    """Sizes, tokenizer and the highest scores."""
    console.print(
        f"{path}: {path.stat().st_size} bytes of at most {MOST_BYTES}; {len(scores.ids)} scores of "
        f"at most {MOST_SCORES}, mean {scores.dense().mean():.3f} over {scores.vocab_size:,} tokens"
    )
    console.print(f"tokenizer: sha256 {scores.tokenizer}")
    name = tokenizer.processor.id_to_piece if tokenizer else str
    for place in np.argsort(-scores.scores, kind="stable")[:SHOWN]:
        console.print(f"{scores.scores[place]:6.3f}  {name(int(scores.ids[place]))}")


def main() -> int:
    """Run one command; 0, or 2 after one line that says what is wrong."""
    arguments = build_parser().parse_args()
    try:
        arguments.run(arguments, Console(highlight=False, markup=False, soft_wrap=True))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
