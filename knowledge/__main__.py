"""``python -m knowledge``: distil graphs to token scores and edges, or look at scores."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import command_line

app = command_line.program(
    "python -m knowledge", "Distil a knowledge graph to scores of tokens, or a text to edges."
)
Model = Annotated[Path, Parameter(help="the SentencePiece model whose tokens have the scores")]
Out = Annotated[Path, Parameter(help="file to write")]


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns 0, or 2 after one line that says what is wrong."""
    return command_line.run(app, arguments)


@app.command
def distil(
    *, nodes: Path, edges: Path, relations: Path | None = None, tokenizer: Model, out: Out
) -> None:
    """Make token scores from a graph: rank its nodes and distil the ranks to scores of tokens.

    Files are .tsv, .csv or .jsonl, plain or .gz, .xz, .zst.

    Args:
        nodes: columns id, label
        edges: columns source, relation, target
        relations: TOML of types and weights of raw relation names; by default WordNet's names and
            the types' own
    """
    from knowledge import commands

    commands.distil(nodes, edges, relations, tokenizer, out)


@app.command
def edges(
    *,
    data: Path,
    tokenizer: Path | None = None,
    rows: int = 2048,
    tokens: int = 5_000_000,
    out: Path | None = None,
) -> None:
    """Choose pairs of tokens that own rows of the bigram table, by their counts in a text.

    Writes information.edges, frequency.edges, shuffled.edges and mixed.edges, one for each value
    of bigram_rows but hash.

    Args:
        data: folder of token shards; its training tokens are counted
        tokenizer: by default the one in the data folder
        rows: of the table, as bigram_vocab_size
        tokens: that are counted, the first ones
        out: folder to make or write to; by default the data folder
    """
    from knowledge import commands

    commands.edges(data, tokenizer, rows, tokens, out or data)


@app.command
def pack(file: Path, /, *, tokenizer: Model, out: Out) -> None:
    """Make token scores from a JSON list {token id: score}, PR #1081's format."""
    from knowledge import commands

    commands.pack(file, tokenizer, out)


@app.command
def inspect(file: Path, /, *, tokenizer: Path | None = None) -> None:
    """Print a file of token scores, the highest first.

    Args:
        tokenizer: SentencePiece model to name the tokens by
    """
    from knowledge import commands

    commands.inspect(file, tokenizer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
