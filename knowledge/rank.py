"""PageRank over typed weights (Page, Brin, Motwani and Winograd, 1999)."""

import numpy as np
import scipy.sparse

from knowledge.graph import Graph
from knowledge.tables import Report

DAMPING = 0.85
TOLERANCE = 1e-9  # of the sum of absolute changes; the ranks' own sum is one
# The change is at most two at first, and shrinks at least by the damping.
MOST_ITERATIONS = int(np.ceil(np.log(TOLERANCE / 2) / np.log(DAMPING)))


def pagerank(graph: Graph, report: Report = lambda share: None) -> np.ndarray:
    """Return the rank (N,) fp64 of each node; the sum is one.

        rank = (1 - d) / N + d (M rank + rank of nodes without an edge out / N)

    M[t, s] is the fraction of s's outgoing weight on edges from s to t. It takes 12 bytes an edge
    and 40 a node.
    """
    count = len(graph.labels)
    outgoing = np.bincount(graph.sources, graph.weights, count)
    shares = graph.weights / outgoing[graph.sources]
    shape = (count, count)
    transition = scipy.sparse.csr_array((shares, (graph.targets, graph.sources)), shape=shape)
    ends = np.flatnonzero(outgoing == 0)
    rank = np.full(count, 1 / count)
    change, iteration = 2.0, 0
    while change > TOLERANCE and iteration < MOST_ITERATIONS:
        flow = transition @ rank
        flow += rank[ends].sum() / count
        flow *= DAMPING
        flow += (1 - DAMPING) / count
        change = float(np.abs(flow - rank).sum())
        rank, iteration = flow, iteration + 1
        report(iteration / MOST_ITERATIONS)
    report(1.0)
    return rank
