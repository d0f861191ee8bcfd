"""What a table's rows save: the study against counts in dictionaries, and its command."""

from collections import Counter, defaultdict
from math import log

import numpy as np
import pytest

from bench.__main__ import main
from bench.studies.edges import EVEN, IN_PROPORTION, Study
from data.shards import shard_name, write_shard
from data.tokenizer import TOKENIZER_NAME
from tests.kernels.tools.oracle import bigram_row
from tests.small import trained_tokenizer

VOCAB, TRAINED, ROWS = 9, 1500, 6


def by_hand(study: Study, tokens: list[int], row_of, prior: str) -> float:
    """The nats a token that a table saves, from p(c | b) and one triple after the other."""
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    seen, new = triples[: TRAINED - 2], triples[TRAINED:]
    uses, found = Counter(), Counter()
    expected: defaultdict[tuple[int, int], float] = defaultdict(float)
    for a, b, c in seen:
        uses[row_of(a, b)] += 1
        found[row_of(a, b), c] += 1
        for each in range(VOCAB):
            expected[row_of(a, b), each] += float(study.alone[b, each])

    def factor(row: int, c: int) -> float:
        even = prior == "even"
        added = EVEN if even else IN_PROPORTION * expected[row, c] / max(1, uses[row])
        return (found[row, c] + added) / (expected[row, c] + added)

    total = 0.0
    for a, b, c in new:
        row = row_of(a, b)
        total += log(factor(row, c))
        total -= log(sum(float(study.alone[b, each]) * factor(row, each) for each in range(VOCAB)))
    return total / len(new)


def test_what_a_table_saves_is_that_of_its_factors() -> None:
    draw = np.random.default_rng(4)
    tokens = np.repeat(draw.integers(0, VOCAB, 1000), 2)
    study = Study(tokens, VOCAB, TRAINED)
    edges = np.array([1 * VOCAB + 1, 2 * VOCAB + 5, 7 * VOCAB + 7])
    given = edges.tolist()

    def owned(a: int, b: int) -> int:
        key = b * VOCAB + a
        return given.index(key) if key in given else 3 + bigram_row(b, a, ROWS - 3)

    for rows_of, row_of in (
        (study.hashed(ROWS), lambda a, b: bigram_row(b, a, ROWS)),
        (study.owned(edges, study.hashed(ROWS - 3, 3)), owned),
    ):
        in_proportion, even = study.saved(rows_of, ROWS)
        assert even == pytest.approx(by_hand(study, tokens.tolist(), row_of, "even"), abs=1e-5)
        expected = by_hand(study, tokens.tolist(), row_of, "in proportion")
        assert in_proportion == pytest.approx(expected, abs=1e-5)


def test_the_command_prints_and_writes_a_row_for_each_table(tmp_path, capsys) -> None:
    trained_tokenizer(["the dog and the fox and the bird. " * 20], 300, tmp_path)
    text = np.minimum(np.random.default_rng(2).geometric(0.1, 3000), 299).astype(np.uint16)
    write_shard(tmp_path / shard_name("train", 0), text)
    assert (tmp_path / TOKENIZER_NAME).is_file()
    sizes = ["--trained", "2500", "--tested", "500", "--rows", "16"]
    command = ["edges", "--data", str(tmp_path), *sizes, "--out", str(tmp_path / "a.md")]
    assert main(command) == 0
    written = (tmp_path / "a.md").read_text()
    assert written.startswith(
        "python -m bench edges --data DIR --rows 16 --trained 2500 --tested 500\n"
    )
    assert written.splitlines()[-1] in capsys.readouterr().out
    names = [line.split(" | ")[0].strip("| ") for line in written.splitlines() if ". " not in line]
    for kind in ("hash", "frequency", "information", "shuffled", "mixed"):
        assert names.count(kind) == 1
    assert main(["edges", "--data", str(tmp_path)]) == 2
    assert "has 3,000 training tokens" in capsys.readouterr().err
