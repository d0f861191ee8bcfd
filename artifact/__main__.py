"""``python -m artifact inspect FILE``: what an artifact holds."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from artifact.code_size import LIMIT
from artifact.container import Stored, read
from errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 2, after one line, for what is not an artifact."""
    parser = argparse.ArgumentParser(prog="python -m artifact", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="list the tensors of an artifact")
    inspect.add_argument("file", type=Path)
    try:
        _inspect(parser.parse_args(arguments).file, Console())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _inspect(path: Path, console: Console) -> None:
    architecture, tensors = read(path)
    console.print(json.dumps(architecture), markup=False, soft_wrap=True)
    table = Table("name", "shape", "kind", title=path.name)
    table.add_column("raw bytes", justify="right")
    for name, stored in tensors.items():
        shape = " x ".join(map(str, stored.values.shape)) or "scalar"
        table.add_row(name, shape, stored.kind, f"{_raw_bytes(stored):,}")
    console.print(table)
    size, raw = path.stat().st_size, sum(map(_raw_bytes, tensors.values()))
    values = sum(stored.values.numel() for stored in tensors.values())
    console.print(
        f"{len(tensors)} tensors, {values:,} values, {raw:,} raw bytes; "
        f"{size:,} bytes in the file, {size / LIMIT:.2%} of {LIMIT:,}",
        highlight=False,
        soft_wrap=True,
    )


def _raw_bytes(stored: Stored) -> int:
    return stored.values.nbytes + (0 if stored.scale is None else stored.scale.nbytes)


if __name__ == "__main__":
    sys.exit(main())
