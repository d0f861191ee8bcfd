"""``python -m data``: make, download and inspect data folders."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

import command_line
from data.ending import ending
from errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = command_line.program("python -m data", "Make, download and inspect data folders.")
Workers = Annotated[
    int, Parameter(help="processes; the result is the same for any number of them", metavar="N")
]
STDIN = "/dev/stdin"
CORES = len(os.sched_getaffinity(0))
TOKENIZER = Parameter(group=Group("Tokenizer"))


@Parameter(name="*")
@dataclass(frozen=True)
class GivenTokenizer:
    """A model, or how one is trained."""

    tokenizer: Annotated[
        Path | None,
        TOKENIZER,
        Parameter(help="a SentencePiece model, or gpt2 for GPT-2's vocabulary (package tiktoken)"),
    ] = None
    train_tokenizer: Annotated[
        int | None,
        TOKENIZER,
        Parameter(help="train a BPE tokenizer with this many tokens on the training files"),
    ] = None
    normalise: Annotated[
        Literal["identity", "nmt_nfkc"],
        TOKENIZER,
        Parameter(
            help="what the trained one does to text first: nothing, or as the contest's do, which "
            "collapse white space"
        ),
    ] = "identity"

    def source(self) -> Path | int:
        """Return the model, or the number of tokens of the one to train.

        Raises:
            InputError: not one of both is given.
        """
        source = self.tokenizer if self.train_tokenizer is None else self.train_tokenizer
        if source is None or None not in (self.tokenizer, self.train_tokenizer):
            raise InputError("give one of --tokenizer MODEL and --train-tokenizer TOKENS")
        return source


@Parameter(name="*")
@dataclass(frozen=True)
class LeftOut:
    """What `prepare` leaves out and counts, where it is an error otherwise."""

    skip_bad: Annotated[
        bool, Parameter(negative=(), help="leave out records without readable text; say which")
    ] = False
    drop_equal: Annotated[
        bool, Parameter(negative=(), help="leave out training documents that validation has, too")
    ] = False


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns 0, 2 after one line that says what is wrong, 128 + a signal."""
    with ending() as received:
        # A dash alone would be taken for an option.
        code = command_line.run(app, [STDIN if each == "-" else each for each in arguments])
    return 128 + received[0] if received else code


@app.command
def prepare(
    *,
    train: list[Path],
    val: list[Path],
    out: Path,
    tokens: GivenTokenizer | None = None,
    field: str = "text",
    left_out: LeftOut | None = None,
    shard_tokens: int = 100_000_000,
    workers: Workers = CORES,
) -> None:
    """Make shards from your own text.

    Files are .txt (a document a file), .jsonl (an object a line), .json (a list of objects), all
    three also with .gz, .xz or .zst, and .parquet. A folder stands for all files in it, a quoted
    pattern for those that match, and - for the standard input.

    Args:
        train: files to train on
        val: files to validate on
        out: folder to make
        tokens: the tokenizer
        field: field of an object, or column of a table, that holds the text
        left_out: records and documents that are no error
        shard_tokens: tokens a shard
    """
    from data.prepare import Options, prepare
    from data.readers import corpus
    from data.sources import found

    tokens, left_out = tokens or GivenTokenizer(), left_out or LeftOut()
    equal = "drop" if left_out.drop_equal else "refuse"
    options = Options(tokens.source(), shard_tokens, workers, equal, tokens.normalise)
    with found(train, val, out) as files:
        splits = [corpus(paths, field, skip_bad=left_out.skip_bad) for paths in files]
        prepare(splits[0], splits[1], options, out, console())


@app.command
def builtin(*, out: Path = Path("corpora/builtin"), workers: Workers = CORES) -> None:
    """Make the default corpus from the Python standard library's sources, without a download.

    Args:
        out: folder to make
    """
    from data.builtin import make_builtin

    make_builtin(out, workers, console())


@app.command
def download(*, variant: str, train_shards: int = 80, out: Path | None = None) -> None:
    """Fetch the contest's FineWeb shards and tokenizer from the Hugging Face hub.

    MATCHED_FINEWEB_REPO_ID and MATCHED_FINEWEB_REMOTE_ROOT_PREFIX choose another repository and
    folder there.

    Args:
        variant: sp1024, sp4096 or sp8192
        train_shards: 100 million tokens and 200 MB each
        out: by default corpora/fineweb_VARIANT
    """
    from data.download import download, fetch_from_hub

    folder = out or Path(f"corpora/fineweb_{variant}")
    download(variant, train_shards, folder, fetch_from_hub, console())


@app.command
def inspect(folder: Path, /, *, tokenizer: Path | None = None) -> None:
    """Check every shard of a data folder and say what it holds.

    Args:
        tokenizer: by default FOLDER/tokenizer.model
    """
    from data.inspection import examine, show

    show(folder, examine(folder, tokenizer), console())


def console() -> "Console":
    """Return where the commands print."""
    import terminal

    return terminal.console()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
