"""Files become a typed graph: types, weights, directions; what fits no node is left out."""

from pathlib import Path

import numpy as np
import pytest

from errors import InputError
from knowledge.graph import Graph, load_graph
from knowledge.relations import TYPES, Relations
from tests.knowledge.graphs import write_tsv

RELATIONS = Relations(
    np.arange(1.0, 11.0),
    {"Solves": (0, False), "is_a": (TYPES.index("PartOf"), False), "has": (7, True)},
)
NODES = (("id", "label"), ("a", "one"), ("07", "two, three"), ("c", ""))
HEADER = ("source", "relation", "target")


def load(folder: Path, *edges: tuple[str, str, str], nodes: tuple = NODES) -> Graph:
    return load_graph(
        write_tsv(folder / "nodes.tsv", *nodes),
        write_tsv(folder / "edges.tsv", HEADER, *edges),
        RELATIONS,
    )


def test_edges_have_their_types_weights_and_direction(tmp_path: Path) -> None:
    graph = load(tmp_path, ("a", "is_a", "07"), ("a", "has", "c"), ("c", "Solves", "c"))
    assert graph.labels.to_pylist() == ["one", "two, three", ""]
    assert list(zip(graph.sources, graph.targets, strict=True)) == [(0, 1), (2, 0), (2, 2)]
    assert graph.weights.tolist() == [8, 8, 1]
    assert graph.kinds.tolist() == [7, 7, 0]
    assert graph.dangling == 0


def test_edges_to_absent_nodes_are_left_out_and_counted(tmp_path: Path) -> None:
    graph = load(tmp_path, ("a", "has", "7"), ("b", "has", "b"), ("a", "Solves", "c"))
    assert (graph.sources.tolist(), graph.targets.tolist()) == ([0], [2])
    assert graph.weights.tolist() == [1]
    assert graph.dangling == 2


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"edges.tsv: no edge joins two nodes of .*nodes.tsv"):
        load(tmp_path, ("x", "Solves", "y"))


def test_ids_that_come_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nodes.tsv: 1 ids come twice"):
        load(tmp_path, ("a", "Solves", "a"), nodes=(*NODES, ("a", "again")))


def test_an_unknown_relation_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 unknown relations: 'eats'"):
        load(tmp_path, ("a", "Solves", "c"), ("a", "eats", "c"))
