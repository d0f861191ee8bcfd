"""Tuning of test-time training: what is held out for it, and how its settings are found."""

import json
import lzma

import pytest

from bench import hold_out
from bench.tune_ttt import AXES, descend
from settings import Settings, load_settings


def test_each_axis_takes_its_best_value_and_no_trial_is_made_twice():
    asked = []

    def gain(choice):
        asked.append(dict(choice))
        return -((choice["a"] - 3) ** 2) - 0.1 * (choice["b"] - choice["a"]) ** 2

    axes = [("a", [1, 2, 3]), ("b", [0, 3]), ("a", [2, 3])]
    assert descend(gain, {"a": 0, "b": 0}, axes, lambda: True) == {"a": 3, "b": 3}
    assert len(asked) == len({tuple(sorted(choice.items())) for choice in asked})


def test_no_trial_begins_after_the_time():
    asked = []

    def gain(choice):
        asked.append(choice)
        return float(choice["a"])

    axes = [("a", [1, 2, 3, 4])]
    assert descend(gain, {"a": 0}, axes, lambda: len(asked) < 3) == {"a": 2}
    assert len(asked) == 3


def test_what_is_tried_is_possible():
    for axis, values in AXES:
        kind = type(getattr(load_settings([]), axis))
        for value in values:
            made = load_settings(["--ttt-enabled", f"--{axis.replace('_', '-')}", str(kind(value))])
            assert isinstance(made, Settings)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz"])
def test_documents_go_to_one_side_or_none(tmp_path, monkeypatch, suffix):
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"held": [1, 4], "dropped": [2]}))
    monkeypatch.setattr(hold_out, "LIST", listed)
    lines = [json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(6)]
    source = tmp_path / f"documents{suffix}"
    source.write_bytes(lzma.compress(b"".join(lines)) if suffix.endswith("xz") else b"".join(lines))
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    assert hold_out.main([str(source), "--train", str(train), "--held", str(held)]) == 0
    assert train.read_bytes() == lines[0] + lines[3] + lines[5]
    assert held.read_bytes() == lines[1] + lines[4]


def test_another_file_than_the_list_is_of_is_refused(tmp_path, capsys):
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "a"}\n')
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    for source, problem in ((short, "has 1 documents"), (tmp_path / "none", "cannot be read")):
        assert hold_out.main([str(source), "--train", str(train), "--held", str(held)]) == 2
        assert problem in capsys.readouterr().err
    assert not train.exists()


def test_the_list_holds_no_document_twice():
    held, dropped = hold_out.places(hold_out.LIST)
    assert (len(held), len(dropped), held & dropped) == (1242, 1567, set())
