"""The generated graph that distilling is timed on: its size and its shape."""

from pathlib import Path

import numpy as np
import pytest

from bench.studies.knowledge import generate, ranks
from knowledge.graph import load_graph
from knowledge.relations import DEFAULT_TABLE, TYPES, Relations


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.studies.knowledge.WORDS", 500)


def test_the_graph_has_its_nodes_and_edges_of_all_types(tmp_path: Path) -> None:
    words = generate(tmp_path, nodes=3000, edges=2000)
    graph = load_graph(
        tmp_path / "nodes.tsv", tmp_path / "edges.tsv", Relations.read(DEFAULT_TABLE)
    )
    assert len(set(words)) == 500
    assert (len(graph.labels), len(graph.sources), graph.dangling) == (3000, 2000, 0)
    assert set(graph.kinds) == set(range(len(TYPES)))
    lengths = [len(label.split(" ")) for label in graph.labels.to_pylist()]
    assert np.mean(lengths) == pytest.approx(1.8, abs=0.1)
    assert set(lengths) == {1, 2, 3}


def test_ranks_are_as_frequent_as_words() -> None:
    """P(0) = ln 2 / ln n, P(1) = ln 1.5 / ln n, ...: within five standard errors."""
    drawn = ranks(1000, 100_000, np.random.default_rng(3))
    assert (drawn.min(), drawn.max() < 1000) == (0, True)
    for rank in (0, 1, 9):
        share = np.log((rank + 2) / (rank + 1)) / np.log(1000)
        assert np.mean(drawn == rank) == pytest.approx(share, abs=5 * (share / 100_000) ** 0.5)
