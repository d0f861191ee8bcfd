"""What a tokenizer does to text is said and recorded."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from rich.console import Console

from data.fidelity import remarks, traits
from data.folder import read_manifest
from data.prepare import Options, prepare
from data.readers import corpus
from data.tokenizer import Tokenizer

CONTEST: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400}
FOLDING = {"normalization_rule_name": "nmt_nfkc_cf"}


def trained(folder: Path, documents: list[str], **given: Any) -> Tokenizer:
    model = io.BytesIO()
    texts = [*documents, "".join(map(chr, range(33, 127)))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, **CONTEST | given
    )
    (folder / "x.model").write_bytes(model.getvalue())
    return Tokenizer(folder / "x.model")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["collapses white space", "replaces characters by simpler ones"]),
        (FOLDING, ["folds case", "collapses white space", "replaces characters by simpler ones"]),
        (
            {"byte_fallback": False, "model_type": "word", "vocab_size": 100},
            [
                "collapses white space",
                "replaces characters by simpler ones",
                "has no tokens for rare characters",
            ],
        ),
    ],
)
def test_traits_of_sentencepiece(
    tmp_path: Path, documents: list[str], given: dict[str, Any], expected: list[str]
):
    assert traits(trained(tmp_path, documents, **given)) == expected


def test_a_tokenizer_trained_here_has_none(tokenizer: Tokenizer):
    assert traits(tokenizer) == []


def test_more_or_fewer_bytes_than_the_text_has_are_said():
    counts = {"source_bytes": 1000, "scored_bytes": 1001}
    assert list(remarks([], {"val": counts})) == [
        "val: scores count 1,001 bytes where the text has 1,000, so they come out too low"
    ]
    assert list(remarks([], {"val": counts | {"scored_bytes": 999}})) == []
    assert list(remarks([], {"val": counts | {"scored_bytes": 998}})) == [
        "val: scores count 998 of the text's 1,000 bytes"
    ]
    assert list(remarks([], {"val": {"source_bytes": 5}})) == []


def test_a_folder_records_and_says_it(tmp_path: Path, documents: list[str]):
    model = trained(tmp_path, documents, **FOLDING)
    for name, texts in (("a", documents[:5]), ("b", ["A  B\n\nC"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    splits = [corpus((tmp_path / f"{name}.txt",)) for name in "ab"]
    console = Console(record=True, width=300, highlight=False)
    prepare(splits[0], splits[1], Options(model.path), tmp_path / "out", console)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert "folds case" in manifest["tokenizer"]["traits"]
    assert manifest["splits"]["val"]["source_bytes"] == 7
    assert manifest["splits"]["val"]["scored_bytes"] == 5
    said = console.export_text()
    assert "the tokenizer folds case, collapses white space" in said
    assert "val: scores count 5 of the text's 7 bytes" in said
