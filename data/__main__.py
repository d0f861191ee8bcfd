"""``python -m data``: make, download and inspect data folders."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from errors import InputError


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="python -m data", description="Make, download and inspect data folders."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_prepare(commands.add_parser("prepare", help="make shards from your own text"))
    _add_builtin(commands.add_parser("builtin", help="make the default corpus, without a download"))
    _add_download(commands.add_parser("download", help="fetch the contest's FineWeb shards"))
    _add_inspect(commands.add_parser("inspect", help="say what a data folder holds and check it"))
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a data folder from .txt (a document a file), .jsonl, .jsonl.gz, .jsonl.xz, "
        ".jsonl.zst (a JSON object a line, its field `text`) and .parquet (column `text`)."
    )
    files = {"nargs": "+", "type": Path, "required": True, "metavar": "FILE"}
    parser.add_argument("--train", help="files to train on", **files)
    parser.add_argument("--val", help="files to validate on", **files)
    tokenizer = parser.add_mutually_exclusive_group(required=True)
    tokenizer.add_argument("--tokenizer", type=Path, metavar="MODEL", help="a SentencePiece model")
    tokenizer.add_argument(
        "--train-tokenizer",
        type=int,
        metavar="VOCAB",
        help="train a BPE tokenizer with this many tokens on the training files",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--shard-tokens", type=int, default=100_000_000, metavar="N", help="default: %(default)s"
    )
    _add_workers(parser)
    parser.set_defaults(run=_prepare)


def _add_builtin(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make the default corpus from the Python standard library's sources."
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("corpora/builtin"),
        metavar="DIR",
        help="default: %(default)s",
    )
    _add_workers(parser)
    parser.set_defaults(run=_builtin)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fetch shards and tokenizer from the Hugging Face hub. MATCHED_FINEWEB_REPO_ID and "
        "MATCHED_FINEWEB_REMOTE_ROOT_PREFIX choose another repository and folder there."
    )
    parser.add_argument("--variant", required=True, help="sp1024, sp4096 or sp8192")
    parser.add_argument(
        "--train-shards",
        type=int,
        default=80,
        metavar="N",
        help="100 million tokens and 200 MB each; default: %(default)s",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: corpora/fineweb_VARIANT")
    parser.set_defaults(run=_download)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = "Check every shard of a data folder and say what it holds."
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="MODEL", help="default: DIR/tokenizer.model"
    )
    parser.set_defaults(run=_inspect)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes; the result is the same for any number; default here: %(default)s",
    )


def _prepare(arguments: argparse.Namespace, console: Console) -> None:
    from data.documents import Corpus
    from data.prepare import Options, prepare

    trained: int | None = arguments.train_tokenizer
    tokenizer = arguments.tokenizer if trained is None else trained
    options = Options(tokenizer, arguments.shard_tokens, arguments.workers)
    train, val = Corpus(tuple(arguments.train)), Corpus(tuple(arguments.val))
    prepare(train, val, options, arguments.out, console)


def _builtin(arguments: argparse.Namespace, console: Console) -> None:
    from data.builtin import make_builtin

    make_builtin(arguments.out, arguments.workers, console)


def _download(arguments: argparse.Namespace, console: Console) -> None:
    from data.download import download, fetch_from_hub

    out = arguments.out or Path(f"corpora/fineweb_{arguments.variant}")
    download(arguments.variant, arguments.train_shards, out, fetch_from_hub, console)


def _inspect(arguments: argparse.Namespace, console: Console) -> None:
    from data.inspection import examine, show

    show(arguments.folder, examine(arguments.folder, arguments.tokenizer), console)


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
