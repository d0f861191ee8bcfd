"""Measure time and memory of distilling generated graphs.

``python -m knowledge distil`` runs on each graph in a separate process, which makes one row. The
exit code is 1 above a target.
"""

# Arrow makes its compute functions at import.
# pyright: reportAttributeAccessIssue=false

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from bench.harness.record import Commit, as_lines, provenance
from data.tokenizer import train_tokenizer
from files import PROJECT
from knowledge.relations import TYPES

WORDS = 200_000  # different ones, about as many as a large dictionary has
LABELS_WITH = (1.0, 0.6, 0.2)  # shares that have a first, a second, a third word
VOCAB_SIZE = 1024
ROW = "| {nodes:,} | {edges:,} | {seconds:.1f} ({most_seconds:g}) | {gib:.2f} ({most_gib:g}) |"


@dataclass(frozen=True)
class Size:
    """A graph to generate and its targets: seconds, GiB of memory at the peak."""

    nodes: int
    edges: int
    most_seconds: float
    most_gib: float


SIZES = (
    Size(500_292, 121_084, 10, 2),  # as many as the public system's
    Size(5_000_000, 1_210_142, 120, 8),  # ten times that
    Size(5_000_000, 10_000_000, 120, 8),
)


def main(*, commit: Commit = None) -> int:
    """Measure each size, print the table."""
    print(as_lines(provenance(commit)))
    print(f"cores: {len(os.sched_getaffinity(0))}\n")
    print("| nodes | edges | seconds (bar) | peak GiB (bar) |\n|---|---|---|---|")
    missed = False
    for size in SIZES:
        seconds, gib = measure(size)
        print(ROW.format(**vars(size), seconds=seconds, gib=gib), flush=True)
        missed |= seconds > size.most_seconds or gib > size.most_gib
    return int(missed)


def measure(size: Size) -> tuple[float, float]:
    """Return seconds and peak GiB of distilling a graph of this size, imports included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = generate(folder, size.nodes, size.edges)
        train_tokenizer([" ".join(words[:20_000])], VOCAB_SIZE, folder / "tokenizer.model")
        command = [sys.executable, "-m", "knowledge", "distil"]
        for flag, file in (
            ("nodes", "nodes.tsv"),
            ("edges", "edges.tsv"),
            ("tokenizer", "tokenizer.model"),
            ("out", "out.scores"),
        ):
            command += [f"--{flag}", str(folder / file)]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{' '.join(command)}: failed")
    return seconds, usage.ru_maxrss / 2**20


def generate(folder: Path, nodes: int, edges: int, seed: int = 0) -> list[str]:
    """Write ``nodes.tsv`` and ``edges.tsv`` of a random graph; returns its words.

    A label is one to three words. Words, and nodes as targets, have the frequencies of words in a
    language: the i-th occurs about 1 / i times as often as the first.
    """
    generator = np.random.default_rng(seed)
    words = pa.array(make_words(WORDS, generator))
    parts = []
    for share in LABELS_WITH:
        of_node = np.where(generator.random(nodes) < share, ranks(WORDS, nodes, generator), -1)
        parts.append(words.take(pa.array(of_node, mask=of_node < 0)))
    labels = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
    write(folder / "nodes.tsv", id=pa.array(np.arange(nodes)), label=labels)
    write(
        folder / "edges.tsv",
        source=pa.array(generator.integers(nodes, size=edges)),
        relation=pa.array(TYPES).take(pa.array(generator.integers(len(TYPES), size=edges))),
        target=pa.array(generator.permutation(nodes)[ranks(nodes, edges, generator)]),
    )
    return words.to_pylist()


def make_words(count: int, generator: np.random.Generator) -> list[str]:
    """Return different words of 3 to 12 letters."""
    syllables = [first + second for first in "bcdfghlmnprstvw" for second in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(generator.choice(syllables, generator.integers(2, 7)))
        words[word] = None
    return list(words)


def ranks(kinds: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return (count,) int64 below ``kinds``, i about in proportion to 1 / (i + 1)."""
    return (kinds ** generator.random(count)).astype(np.int64) - 1


def write(path: Path, **columns: pa.Array) -> None:
    """Write columns as TSV."""
    options = csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    csv.write_csv(pa.table(columns), path, options)
