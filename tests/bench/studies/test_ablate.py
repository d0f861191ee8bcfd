"""The ablation: which runs it makes, that it goes on where it was, and what its table says."""

from functools import cache
from pathlib import Path

import pytest

from bench.__main__ import main as bench
from bench.harness import pairs
from bench.harness import runs as harness
from bench.studies import ablate
from errors import InputError
from settings import Settings
from settings.load import load_settings
from swarm.steering import Steering
from tests.warm import FORKS

SMALL = """
    --preset tiny --device cpu --wallclock 0 --iterations 2 --warmdown-iters 1 --warmup-steps 0
    --num-layers 3 --model-dim 32 --num-heads 2 --num-kv-heads 1 --rope-dims 4 --xsa-last-n 1
    --ve-layers 1 --ve-dim 8 --bigram-dim 8 --near-layers 0 --parallel-from 2 --no-ttt-enabled
    --train-seq-len 64 --train-batch-tokens 256 --eval-stride 64
    --micro-batch-tokens 256 --eval-seq-len 64 --val-max-tokens 1024 --calibration-tokens 256
"""
RUN = {"steps": 10, "step_ms": 2.5}


@cache
def read(*command: str) -> Settings:
    """Return a command line's settings, which take a tenth of a second, read once."""
    return load_settings(command)


@pytest.fixture(autouse=True)
def no_settings_are_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(command: list[str], *environment: dict[str, str]) -> Settings:
        return load_settings(command, *environment) if environment else read(*command)

    monkeypatch.setattr(pairs, "load_settings", of)


def planned(*arguments: str, seeds: int = 1, variants: list[str] | None = None):
    base = [*ablate.BASE, "--data", "nowhere", *arguments]
    return pairs.plan(base, seeds, ablate.options_of(variants), Path("runs"))


def test_each_variant_lacks_one_thing_and_on_lacks_none():
    found = {name: read(*command) for name, _, command in planned()}
    assert found["on"].swarm
    assert found["on"].kg_scores == "wordnet"
    assert not found["swarm off"].swarm
    assert found["KG init off"].kg_init == 0
    assert found["KG loss off"].kg_loss_weight == 0
    assert found["MTP off"].mtp_num_heads == 0
    assert found["QAT off"].late_qat_threshold == 0
    for kind in ("frequency", "information", "shuffled", "mixed"):
        [(_, _, command)] = planned(variants=[f"rows by {kind}"])[1:]
        assert read(*command).bigram_rows == kind
    for agent in ablate.SEED_AGENTS:
        steering = Steering.of(found[f"agent {agent.name} off"])
        assert steering is not None
        names = {kind.name for kind in ablate.SEED_AGENTS} - {agent.name}
        assert {on.name for on in steering.mesh.agents} == names


def test_every_seed_has_every_variant_and_no_two_share_a_folder():
    runs = planned(seeds=3)
    assert len({folder for _, folder, _ in runs}) == len(runs) == 3 * len(ablate.VARIANTS)
    assert {read(*command).seed for _, _, command in runs} == {1337, 1338, 1339}


def test_what_the_options_switched_off_is_not_switched_off_again():
    names = [name for name, _, _ in planned("--mtp-num-heads", "0")]
    assert "MTP off" not in names
    assert len(names) == len(ablate.VARIANTS) - 1


def test_some_variants_alone_are_compared_with_on():
    runs = planned(seeds=2, variants=["swarm off"])
    assert [name for name, _, _ in runs] == ["on", "swarm off"] * 2


def test_a_variant_named_twice_and_on_itself_are_run_once():
    """Two runs in one folder at once would write over each other."""
    named = ["swarm off", "on", "swarm off"]
    assert [name for name, _, _ in planned(variants=named)] == ["on", "swarm off"]


def test_a_variant_that_is_none_is_refused(capsys):
    assert bench(["ablate", "--data", "nowhere", "--variants", "agent x off"]) == 2
    assert 'invalid value "agent x off"' in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [-1, 0, 101, 100_000])
def test_a_number_of_seeds_that_no_series_has_is_refused(seeds: int) -> None:
    """A hundred thousand were planned for minutes, without a word."""
    with pytest.raises(InputError, match=rf"^--seeds {seeds}: choose 1 to 100 runs of each$"):
        planned(seeds=seeds)


def runs(*bits: float) -> list[pairs.Summary]:
    return [RUN | {"scores": {"raw, plain": {"bpb": bpb}}} for bpb in bits]


def test_the_table_compares_runs_of_the_same_seed():
    """Seeds differ by 0.1, but the variant is 0.005 worse with each of them, or 0.004 or 0.006."""
    on, worse = pairs.table(
        {"on": runs(1.0, 1.1, 1.2), "worse": runs(1.005, 1.104, 1.206)}
    ).splitlines()[2:]
    assert on == "| on | 3 | 10 | 2.50 | 1.1000 ± 0.1000 | - | - |"
    # t = 0.005 / (0.001 / sqrt(3)) = 8.66 at 2 degrees of freedom
    assert worse == "| worse | 3 | 10 | 2.50 | 1.1050 ± 0.1005 | +0.0050 ± 0.0010 | 0.013 |"


def test_what_is_not_finished_is_compared_with_the_seeds_that_are():
    found = {"on": runs(1.0, 1.1, 1.2), "off": runs(1.01, 1.112), "late": runs(1.02)}
    _, off, late = pairs.table(found).splitlines()[2:]
    assert off.split(" | ")[5] == "+0.0110 ± 0.0014"
    assert late == "| late | 1 | 10 | 2.50 | 1.0200 | +0.0200 | - |"


def test_seeds_at_which_a_run_diverged_are_counted_and_not_compared():
    lost: pairs.Summary = {"scores": {}, "diverged": True}
    found = {
        "on": [lost, *runs(1.1, 1.2, 1.3)],
        "off": [*runs(1.0), lost, *runs(1.21, 1.312)],
        "hot": [lost],
    }
    assert pairs.ended(0, found) == 1 and pairs.ended(130, found) == 130
    assert pairs.ended(0, {"on": runs(1.0)}) == 0
    on, off, hot = pairs.table(found).splitlines()[2:]
    assert on == "| on | 3, 1 diverged | 10 | 2.50 | 1.2000 ± 0.1000 | - | - |"
    assert off.startswith("| off | 3, 1 diverged | 10 | 2.50 | 1.1740 ± 0.1591 | +0.0110 ± 0.0014")
    assert hot == "| hot | 0, 1 diverged | - | - | - | - | - |"


def test_a_table_without_scores_has_as_many_heads_as_cells():
    """The head had an empty column more."""
    lost: pairs.Summary = {"scores": {}, "diverged": True}
    assert pairs.table({"on": [lost]}).splitlines() == [
        "| variant | n | steps | ms/step |",
        "|---|---|---|---|",
        "| on | 0, 1 diverged | - | - |",
    ]


def test_an_interruption_leaves_a_table_of_what_is_finished(builtin, tmp_path, monkeypatch):
    def stopped(*_):
        yield RUN | {"scores": {"raw, plain": {"bpb": 1.25}}}
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs, "summaries_of", stopped)
    out = tmp_path / "table.md"
    assert bench(["ablate", "--data", str(builtin), "--out", str(out)]) == 130
    assert "| on | 1 | 10 | 2.50 | 1.2500 | - | - |" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_stopped_ablation_goes_on_and_a_foreign_run_is_refused(
    builtin, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(harness, "get_context", lambda method: FORKS)  # no import is waited for
    few = {name: ablate.VARIANTS[name] for name in ("on", "KG init off")}
    monkeypatch.setattr(ablate, "VARIANTS", few)
    out, runs = tmp_path / "table.md", tmp_path / "runs"
    command = ["--data", str(builtin), "--runs", str(runs), "--out", str(out), "--seeds", "1"]
    assert bench(["ablate", *command, "--", *SMALL.split()]) == 0
    first = out.read_text(encoding="utf-8")
    assert str(tmp_path) not in first
    rows = [line for line in first.splitlines() if line.startswith(("| on", "| KG"))]
    assert rows[0].split("|")[5:] != rows[1].split("|")[5:]
    cut_off, finished = runs / "on-1337" / "summary.json", runs / "KG-init-off-1337"
    cut_off.unlink()
    before = (finished / "summary.json").stat().st_mtime_ns
    assert bench(["ablate", *command, "--", *SMALL.split()]) == 0
    assert cut_off.exists()
    assert (finished / "summary.json").stat().st_mtime_ns == before
    assert bench(["ablate", *command, "--", *SMALL.split(), "--matrix-lr", "0.5"]) == 2
    assert "holds another run" in capsys.readouterr().err
