"""Two trees are timed in turn: the protocol, with the reference's operations on a CPU."""

import importlib
import re
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.commits import against
from bench.commits.against import Row, Worker, compare, measure, worktree
from errors import InputError
from files import PROJECT


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Two processes in this tree: each imports PyTorch, so once."""
    made = [Worker(PROJECT, tiny=True) for _ in range(2)]
    yield made
    for worker in made:
        worker.close()


@pytest.mark.slow
def test_everything_of_a_tree_has_a_row_and_its_own_bits(workers: list[Worker], monkeypatch):
    monkeypatch.setattr(against, "CALLS", (1, 2))
    rows = list(compare(workers, rounds=2, only=None, bound=10.0))
    assert all(isinstance(row, Row) for row in rows), [str(row) for row in rows]
    names = [row.name for row in rows if isinstance(row, Row)]
    assert names[:2] == ["training step", "model, forward and backward"]
    operations = {name.partition(",")[0] for name in names[2:]}
    assert operations >= {"attention", "self_attention", "norm", "mix_norm", "mlp", "linear"}
    assert operations >= {"linear_add", "projections", "loss", "embed", "quant"}
    assert all(isinstance(row, Row) and row.same_bits and row.this > 0 for row in rows)


class Told:
    """A worker that says what it is told."""

    tree = Path("told")

    def __init__(self, times: list[float], digest: int = 1, log: list | None = None) -> None:
        self.times, self.digest = iter(times), digest
        self.log = [] if log is None else log
        self.asked = ""

    def ask(self, do: str, **_: object) -> None:
        self.asked = do
        self.log.append((self, do))

    def answer(self) -> object:
        if self.asked == "names":
            return ["norm"]
        return {"prepare": self.digest, "time": 0.0}.get(self.asked) or (
            next(self.times) if self.asked == "time" else None
        )


def told(this: list[float], that: list[float], **of_this: int) -> list:
    log: list = []
    return [Told(this, log=log, **of_this), Told(that, log=log)]


def test_the_ratio_is_of_paired_rounds_and_so_is_its_spread():
    # A clock that halves slows both trees: the ratio of each pair stays.
    pair = told([1e9, 110, 110, 220, 220], [1e9, 100, 100, 200, 200])
    row = measure(pair, "norm", rounds=4)
    assert row[:3] == ("norm", 165.0, 150.0)
    assert row[3:] == pytest.approx((1.1, 0.0, True))
    assert str(row) == "| norm | 165.0 | 150.0 | 1.1000 | 0.0000 | same |"


def test_trees_take_turns_and_who_is_first_alternates():
    pair = told([1e9, 1, 1, 1], [1e9, 1, 1, 1], digest=2)
    assert not measure(pair, "norm", rounds=3).same_bits
    timed = [pair.index(worker) for worker, do in pair[0].log if do == "time"]
    assert timed == [0, 1, 0, 1, 1, 0, 0, 1]
    assert [do for _, do in pair[0].log][-2:] == ["drop", "drop"]


def test_a_ratio_above_the_bound_is_measured_again():
    noisy = told([1e9, 120, 120, 1e9, 100, 100, 100, 100], [1e9, 100, 100, 1e9, *[100] * 4])
    (row,) = compare(noisy, rounds=2, only=None, bound=1.01)
    assert isinstance(row, Row)
    assert row.ratio == 1.0


def test_a_tree_that_fails_is_said_and_the_others_go_on(workers: list[Worker]):
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        measure(workers, "nothing", rounds=2)
    assert measure(workers, "norm", rounds=2).same_bits


def test_another_tree_is_what_its_worker_imports(workers: list[Worker], tmp_path: Path):
    tree = tmp_path / "tree"
    shutil.copytree(
        PROJECT, tree, ignore=shutil.ignore_patterns(".*", "runs", "corpora", "results")
    )
    source = tree / "kernels" / "norm" / "reference.py"
    text = source.read_text()
    changed = text.replace("F.rms_norm(", "2 * F.rms_norm(")
    assert changed != text
    source.write_text(changed)
    there = Worker(tree, tiny=True)
    try:
        assert not measure([workers[0], there], "norm", rounds=2).same_bits
        assert measure([workers[0], there], "linear", rounds=2).same_bits
    finally:
        there.close()


def test_this_tree_has_the_names_that_are_looked_up_on_a_gpu():
    text = "".join(path.read_text() for path in against.WORKER.parent.glob("timed_*.py"))
    places = re.findall(r'find\(\s*"([\w.]+):([\w.]+)"', text)
    assert len(places) >= 8
    for module, name in places:
        assert attrgetter(name)(importlib.import_module(module))


def test_without_a_gpu_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(against.torch.cuda, "is_available", lambda: False)
    assert bench(["against", "HEAD"]) == 2
    assert capsys.readouterr().err == "error: bench against needs a GPU\n"


def test_a_commit_that_is_not_there_is_said():
    with (
        pytest.raises(InputError, match="no worktree of nothing-there: "),
        worktree("nothing-there"),
    ):
        pass
