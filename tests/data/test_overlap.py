"""A document of validation is not trained on."""

from pathlib import Path

import pytest
from rich.console import Console

from data import documents, overlap
from data.documents import Document
from data.folder import read_manifest
from data.overlap import Equal, Overlap
from data.prepare import Options, prepare
from data.readers import corpus
from errors import InputError


def made(*texts: str) -> list[Document]:
    return [Document(text.lstrip("+"), 0, text.startswith("+")) for text in texts]


def test_an_equal_document_is_refused_with_its_place_and_the_way_out():
    seen = Overlap(made("a", "b"), "refuse")
    assert list(seen.apart(made("c", "d"))) == made("c", "d")
    with pytest.raises(InputError, match=r"document 2 .*\(' ?b'\).*--drop-equal|document 2"):
        list(seen.apart(made("c", " b\n", "d")))


def test_equal_documents_and_parts_are_dropped_and_counted():
    seen = Overlap(made("a", "b"), "drop")
    for _ in range(2):
        kept = list(seen.apart(made("a", "+c", "+d", "e", "+b", "+f")))
        assert kept == made("c", "+d", "e", "+f")
        assert seen.dropped == 2
    assert list(Overlap((), "keep").apart(made("a"))) == made("a")


def test_of_very_many_documents_a_share_is_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlap, "MOST", 100)
    texts = [str(number) for number in range(1000)]
    seen = Overlap(made(*texts), "drop")
    list(seen.apart(made(*texts)))
    assert 40 <= seen.dropped <= 100
    assert not list(Overlap(made(*texts[:100]), "drop").apart(made(*texts[:100])))


@pytest.mark.parametrize("equal", ["refuse", "drop"])
def test_a_folder_of_text_in_both_splits(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch, equal: Equal
):
    monkeypatch.setattr(documents, "PART_CHARACTERS", 8)
    (tmp_path / "a.jsonl").write_text('{"text": "bada kolu"}\n{"text": "mi sa\\n and more"}\n')
    (tmp_path / "b.txt").write_text("bada kolu\n")
    splits = [corpus((tmp_path / name,)) for name in ("a.jsonl", "b.txt")]
    options, out = Options(model_path, equal=equal), tmp_path / "out"
    if equal == "refuse":
        with pytest.raises(InputError, match="document 1 of the training text"):
            prepare(splits[0], splits[1], options, out, Console(quiet=True))
        assert not out.exists()
        return
    console = Console(record=True, width=200)
    prepare(splits[0], splits[1], options, out, console)
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest["splits"]["train"]["documents"] == 1
    assert manifest["splits"]["train"]["equal_dropped"] == 2
    assert manifest["source"]["equal"] == "drop"
    assert "2 documents left out" in console.export_text()
