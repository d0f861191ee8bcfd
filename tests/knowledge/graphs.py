"""Small graphs: as arrays, and as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from knowledge.graph import Graph


def graph_of(labels: Sequence[str], edges: Sequence[tuple[int, int, float]] = ()) -> Graph:
    """A graph from labels and (source, target, weight)."""
    sources, targets, weights = zip(*edges, strict=True) if edges else ((), (), ())
    return Graph(
        labels=pa.chunked_array([pa.array(labels, pa.string())]),
        sources=np.array(sources, np.int32),
        targets=np.array(targets, np.int32),
        weights=np.array(weights, np.float64),
        kinds=np.zeros(len(edges), np.int64),
        dangling=0,
    )


def write_tsv(path: Path, *rows: Sequence[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path
