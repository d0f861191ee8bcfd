"""A typed graph as arrays: labels of nodes, ends and weights of edges."""

# Arrow creates its compute functions at import.
# pyright: reportAttributeAccessIssue=false
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from errors import InputError
from knowledge.relations import Relations
from knowledge.tables import Report, read_columns


@dataclass(frozen=True)
class Graph:
    """N nodes, E edges along which rank flows.

    labels: N strings. sources, targets: (E,) int32, indices of nodes. weights: (E,) fp64. kinds:
    (E,) of ``relations.TYPES``. dangling: number of edges without a node, which are left out.
    """

    labels: pa.ChunkedArray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray
    dangling: int


def load_graph(
    nodes: Path,
    edges: Path,
    relations: Relations,
    nodes_read: Report = lambda share: None,
    edges_read: Report = lambda share: None,
) -> Graph:
    """Read nodes (columns id, label) and edges (source, relation, target).

    Edges that name an absent node are left out and counted, because a graph may be an extract of a
    larger one. If all edges do, the two files do not belong together.

    Raises:
        InputError: a file cannot be read, an id occurs twice, a relation is unknown, no edge fits.
    """
    node_table = read_columns(nodes, ("id", "label"), nodes_read)
    ids = node_table["id"]
    twice = len(ids) - pc.count_distinct(ids).as_py()
    if twice:
        raise InputError(f"{nodes}: {twice:,} ids come twice")
    edge_table = read_columns(edges, ("source", "relation", "target"), edges_read)
    kinds, against = classify(edge_table["relation"], relations)
    sources, targets = (
        pc.fill_null(pc.index_in(edge_table[end], value_set=ids), -1).to_numpy()
        for end in ("source", "target")
    )
    known = (sources >= 0) & (targets >= 0)
    if not known.any():
        raise InputError(f"{edges}: no edge joins two nodes of {nodes}; give files of one graph")
    sources, targets = np.where(against, targets, sources), np.where(against, sources, targets)
    kinds = kinds[known]
    return Graph(
        labels=node_table["label"],
        sources=sources[known],
        targets=targets[known],
        weights=relations.weights[kinds],
        kinds=kinds,
        dangling=int(len(known) - known.sum()),
    )


def classify(names: pa.ChunkedArray, relations: Relations) -> tuple[np.ndarray, np.ndarray]:
    """Return the type (E,) of each edge, and whether rank flows against it."""
    encoded = names.dictionary_encode().combine_chunks()
    kinds, against = relations.look_up(encoded.dictionary.to_pylist())
    codes = encoded.indices.to_numpy()
    return kinds[codes], against[codes]
