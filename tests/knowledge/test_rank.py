"""PageRank against the dense equations it solves."""

import numpy as np
import pytest

from knowledge.graph import Graph
from knowledge.rank import DAMPING, pagerank
from tests.knowledge.graphs import graph_of

# The last change is at most 1e-9; what is left to come at most that times d + d^2 + ...
BOUND = 1e-9 * DAMPING / (1 - DAMPING)


def dense(graph: Graph) -> np.ndarray:
    """The rank as the solution of (1 - d M) rank = (1 - d) / N, with the whole of M."""
    count = len(graph.labels)
    matrix = np.zeros((count, count))
    for source, target, weight in zip(graph.sources, graph.targets, graph.weights, strict=True):
        matrix[target, source] += weight
    out = matrix.sum(0)
    matrix = np.where(out > 0, matrix / np.where(out > 0, out, 1), 1 / count)
    return np.linalg.solve(np.eye(count) - DAMPING * matrix, np.full(count, (1 - DAMPING) / count))


def random_graph(nodes: int, edges: int, seed: int) -> Graph:
    """With parallel edges, loops and nodes without an edge out."""
    draw = np.random.default_rng(seed)
    ends = draw.integers(nodes, size=(edges, 2))
    ends[:, 0] = ends[:, 0] // 2  # so half of the nodes have none
    weights = draw.uniform(0.1, 1, edges)
    return graph_of(
        [str(node) for node in range(nodes)],
        [(int(s), int(t), float(w)) for (s, t), w in zip(ends, weights, strict=True)],
    )


@pytest.mark.parametrize(
    ("nodes", "edges"), [(1, 1), (2, 5), (50, 20), (50, 400), (200, 1000)], ids=str
)
def test_rank_solves_the_dense_equations(nodes: int, edges: int) -> None:
    graph = random_graph(nodes, edges, seed=nodes + edges)
    rank = pagerank(graph)
    assert np.abs(rank - dense(graph)).sum() < 2 * BOUND
    assert rank.sum() == pytest.approx(1, abs=1e-12)


def test_a_cycle_that_converges_slowest_stays_within_the_bound() -> None:
    """Two nodes that pass all to each other: the change shrinks by the damping alone."""
    graph = graph_of(["a", "b", "c"], [(0, 1, 1.0), (1, 0, 1.0), (2, 0, 1.0)])
    assert np.abs(pagerank(graph) - dense(graph)).sum() < 2 * BOUND


def test_rank_follows_weights() -> None:
    rank = pagerank(graph_of(["from", "heavy", "light"], [(0, 1, 0.9), (0, 2, 0.1)]))
    uniform = rank[0]
    assert (rank[1] - uniform) / (rank[2] - uniform) == pytest.approx(9)


def test_report_rises_to_one() -> None:
    heard: list[float] = []
    pagerank(random_graph(20, 40, seed=1), heard.append)
    assert len(heard) > 10
    assert heard == sorted(heard)
    assert heard[-1] == 1
