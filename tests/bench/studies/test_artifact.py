"""The artifact's bench does nothing twice, nothing beside what it times, and loses no row."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from artifact.export import export
from artifact.format import container
from artifact.quantisation.hessians import collect
from artifact.quantisation.recipe import Recipe
from bench.__main__ import main
from bench.studies import artifact as bench_of_artifacts
from bench.studies.artifact import Bench, raw_bytes
from data.inputs import Inputs
from evaluation.audit.observing import TokenArray
from model.parameters import exported
from tests.evaluation.network import BYTES, LENGTH, fresh, small_settings, tokens_of_documents

LABELS = [
    "to the nearest code",
    "GPTQ",
    "GPTQ, 3 corrections",
    "GPTQ, 20,000 bytes",
]
# Seconds; a row that waits for plain LZMA, which waits for a later row, would wait for ever.
DEADLOCK = 120
ARGUMENTS = ["artifact", "run", "--data", "data", "--limit", "20000", "--commit", "0"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Of a small network; `main` opens it whatever run it is given."""
    settings = small_settings(calibration_tokens=4 * LENGTH, micro_batch_tokens=2 * LENGTH)
    model = fresh(settings)
    split = TokenArray(tokens_of_documents(400, seed=0))
    vocabulary = settings.vocab_size, settings.bos_id
    inputs = Inputs(split, BYTES, Path(), *vocabulary, False, split, "", ())  # pyright: ignore[reportArgumentType]
    weights = {name: weight.detach().clone() for name, weight in exported(model).items()}
    made = Bench(settings, inputs, model, weights, ThreadPoolExecutor(1))
    made.base = made.bpb(weights)

    def opened(_run: Path, _data: Path, pool: ThreadPoolExecutor) -> Bench:
        made.pool = pool
        return made

    monkeypatch.setattr(Bench, "open", opened)
    return made


def set_threads(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(bench_of_artifacts, "threads", lambda: number)


def labels(printed: str) -> list[str]:
    rows = re.findall(r"^\| (.+?) \| \d", printed, re.MULTILINE)
    assert printed.index("| coded |") < printed.index("to the nearest code")
    return rows


@pytest.mark.parametrize("threads", [0, 4])
def test_every_way_has_a_whole_row(bench, capsys, monkeypatch, threads: int) -> None:
    set_threads(monkeypatch, threads)
    main(ARGUMENTS)
    printed, told = capsys.readouterr()
    assert sorted(labels(printed)) == sorted(LABELS)
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in printed.splitlines()}
    lines = [cells[label] for label in ("coded", *LABELS)]
    assert {len(line) for line in lines} == {len(bench_of_artifacts.HEADINGS)}
    assert [line[7:9] == ["-", "-"] for line in lines] == [False, False, False, False, True]
    assert told.splitlines() == ["collecting Hessians", *(f"coding: {label}" for label in LABELS)]


def test_a_row_does_its_work_once(bench, monkeypatch) -> None:
    calls: list[str] = []

    def count(place: object, name: str) -> None:
        work = getattr(place, name)

        def counted(*given: object) -> object:
            calls.append(name)
            return work(*given)

        monkeypatch.setattr(place, name, counted)

    for name in ("quantise", "export", "load", "plain_lzma"):
        count(bench_of_artifacts, name)
    count(container, "encode")
    bench.row("whole", Recipe(), None).plain.result()
    assert calls == ["quantise", "encode", "load", "plain_lzma"]
    calls.clear()
    bench.row("filled", Recipe(), None, 20_000).plain.result()
    attempts = calls[1:-2]
    assert calls == ["export", *attempts, "load", "plain_lzma"]
    assert set(attempts) == {"encode"}


def test_the_files_are_those_of_an_export(bench, tmp_path: Path) -> None:
    hessians = collect(bench.model, bench.batches())
    recipe = Recipe(rank=2, corrected=1)
    paths = [tmp_path / name for name in ("ours", "theirs", "filled")]
    made, stored = bench.code(paths[0], recipe, hessians)
    report = export(paths[1], bench.architecture, bench.weights, bench.roles, recipe, hessians)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert made.bytes == report.bytes
    assert made.quantising and made.packing
    assert made.quantising + made.packing < made.exporting
    filled, found = bench.fill(paths[2], recipe, hessians, report.bytes)
    assert (filled.factor, filled.bytes) == (1.0, report.bytes)
    assert raw_bytes(found) == raw_bytes(stored)


def test_nothing_runs_beside_what_is_timed_on_few_cores(bench, capsys, monkeypatch) -> None:
    events: list[str] = []
    timed, plain = bench_of_artifacts.seconds_of, bench_of_artifacts.plain_lzma

    def compress(raw: bytes) -> int:
        events.append("plain begins")
        Event().wait(0.1)  # long enough for the next row to begin, if it may
        size = plain(raw)
        events.append("plain ends")
        return size

    def watched(work):
        events.append("timed")
        return timed(work)

    monkeypatch.setattr(bench_of_artifacts, "plain_lzma", compress)
    monkeypatch.setattr(bench_of_artifacts, "seconds_of", watched)
    set_threads(monkeypatch, 0)
    main(ARGUMENTS)
    begins = [place for place, event in enumerate(events) if event == "plain begins"]
    assert len(begins) == len(LABELS)
    assert all(events[place + 1] == "plain ends" for place in begins)


def test_many_cores_go_on_while_plain_lzma_runs(bench, capsys, monkeypatch) -> None:
    last_row = Event()
    fill = Bench.fill

    def compress(raw: bytes) -> int:
        assert last_row.wait(DEADLOCK), "a row waited for plain LZMA"
        return len(raw)

    def filled(*given):
        last_row.set()
        return fill(*given)

    monkeypatch.setattr(bench_of_artifacts, "plain_lzma", compress)
    monkeypatch.setattr(Bench, "fill", filled)
    set_threads(monkeypatch, 4)
    main(ARGUMENTS)
    assert sorted(labels(capsys.readouterr()[0])) == sorted(LABELS)


def test_rows_are_out_before_a_later_one_is_coded(bench, capsys, monkeypatch) -> None:
    def cut_off(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "fill", cut_off)
    set_threads(monkeypatch, 0)
    assert main(ARGUMENTS) == 130
    assert labels(capsys.readouterr()[0]) == LABELS[:3]


@pytest.mark.parametrize(("lost", "code"), [(0.0, 0), (1.0, 1)])
def test_the_exit_code_is_the_bars(bench, capsys, monkeypatch, lost: float, code: int) -> None:
    set_threads(monkeypatch, 0)
    monkeypatch.setattr(bench_of_artifacts, "LEAST_SMALLER", -9.0)
    bench.base -= lost
    assert main(ARGUMENTS) == code
