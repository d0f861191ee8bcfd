"""A few damaged files of every kind; `python -m bench fuzz` throws thousands."""

import os
import random
import time
from pathlib import Path

from bench.studies.fuzz import change, damaged, fuzz, outcome
from bench.studies.fuzz_files import kinds
from errors import InputError


def test_no_damaged_file_ends_in_a_traceback():
    count = 20 * len(list(kinds()))
    found, faults = fuzz(minutes=5, count=count, seed=1)
    assert faults == []
    assert found.total() == count
    refused = {kind for kind, said in found if said == "refused"}
    assert refused == {kind.path for kind in kinds()}


def test_what_a_loader_does_wrong_is_a_fault(tmp_path: Path):
    def broken(folder: Path) -> None:
        raise KeyError("verdicts")

    def refusing(folder: Path) -> None:
        raise InputError("no")

    assert outcome(broken, tmp_path).startswith("FAULT: KeyError at ")
    assert outcome(refusing, tmp_path) == "refused"
    assert outcome(lambda folder: None, tmp_path) == "read"


def test_damage_is_damage_and_the_same_for_the_same_seed():
    sound = b'{"a": {"b": [1, 2, {"c": "d"}]}, "e": 0.5}\n' * 3
    for name in ("a.json", "a.jsonl", "a.bin"):
        every = [damaged(name, sound, random.Random(n)) for n in range(100)]
        assert every == [damaged(name, sound, random.Random(n)) for n in range(100)]
        assert len(set(every)) > 80 and sum(each != sound for each in every) > 95
    tree = [{"a": 1}]
    change(tree, random.Random(0))
    assert tree != [{"a": 1}]


def test_a_crash_of_the_process_is_a_fault(monkeypatch):
    began = time.monotonic()
    monkeypatch.setattr("bench.studies.fuzz.work", os._exit)  # cannot take the arguments
    found, faults = fuzz(minutes=5, count=2, seed=0)
    assert len(faults) == 2 and not found
    assert "the process ended with 1" in faults[0]
    assert time.monotonic() - began < 60
