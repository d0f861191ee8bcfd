"""Print the contents of an artifact as tables."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from artifact.format.container import read_with_sizes
from artifact.quantisation.parts import corrected_by
from artifact.stored import Stored
from artifact.submission.code_size import LIMIT
from errors import printable
from model.parameters import EDGES
from terminal import show as show_table


def show(path: Path, console: Console) -> None:
    """Print an artifact's architecture, its tensors and the parts of the file.

    Raises:
        InputError: the file is not an artifact.
    """
    architecture, tensors, sizes = read_with_sizes(path)
    console.print(json.dumps(architecture), markup=False, soft_wrap=True)
    show_table(_tensors(printable(path.name), tensors, sizes), console)
    show_table(_parts(sizes), console)
    # Corrections of banks, and edges, are no parameters of the network.
    others = {name for name in tensors if name == EDGES or corrected_by(name)}
    of_network = [stored for name, stored in tensors.items() if name not in others]
    size, parameters = path.stat().st_size, sum(stored.values.numel() for stored in of_network)
    console.print(
        f"{len(tensors)} tensors, {parameters:,} parameters; {size:,} bytes in the file, "
        f"{size / LIMIT:.2%} of {LIMIT:,}",
        highlight=False,
        soft_wrap=True,
    )


def _tensors(title: str, tensors: Mapping[str, Stored], sizes: Mapping[str, int]) -> Table:
    """Return a row per tensor; its bytes are its part of its streams, by entropy."""
    table = Table("name", "shape", "role", "kind", title=escape(title))
    for heading in ("error", "bits a value", "bytes"):
        table.add_column(heading, justify="right")
    bits = {name: entropy_bits(stored) for name, stored in tensors.items()}
    streams: dict[str, float] = {}
    for of_streams in bits.values():
        for stream, of_stream in of_streams.items():
            streams[stream] = streams.get(stream, 0.0) + of_stream
    for name, stored in tensors.items():
        size = sum(
            sizes[stream] * of_stream / streams[stream]
            for stream, of_stream in bits[name].items()
            if streams[stream]
        )
        shape = " x ".join(map(str, stored.values.shape)) or "scalar"
        each = f"{8 * size / max(1, stored.values.numel()):.2f}"
        error = f"{stored.error:.3%}"
        table.add_row(name, shape, stored.role, stored.kind, error, each, f"{size:,.0f}")
    return table


def _parts(sizes: Mapping[str, int]) -> Table:
    table = Table("part")
    table.add_column("bytes", justify="right")
    for part, size in sizes.items():
        table.add_row(part, f"{size:,}")
    return table


def entropy_bits(stored: Stored) -> dict[str, float]:
    """Return the entropy of a tensor's numbers in bits, by stream."""
    parts = {f"{stored.role} {stored.kind}": stored.values}
    if stored.scale is not None:
        parts["steps fp16"] = stored.scale
    found = {}
    for stream, numbers in parts.items():
        _, counts = torch.unique(numbers.float(), return_counts=True)
        share = counts.double() / max(1, numbers.numel())
        found[stream] = -(counts * share.log2()).sum().item()
    return found
