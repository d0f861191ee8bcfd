"""The scored text against its source: other files, missing documents, dishonest tokenizers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from data import published
from data.byte_pairs import content_of
from data.folder import MANIFEST_NAME
from data.inputs import Scored, open_scored
from data.shards import write_shard
from evaluation.audit.source import data, source
from runtime.records import Partial
from tests.data import encodings
from tests.evaluation.audit.test_accounting import DOCUMENTS, KINDS, tokenizer_of

KINDS |= {"folds case": KINDS["ours"] | {"normalization_rule_name": "nmt_nfkc_cf"}}
DOWNLOAD = {"kind": "download", "variant": "sp1024"}
BYTES = sum(len(text.encode()) for text in DOCUMENTS)


def inputs_of(
    folder: Path,
    tokens: str,
    documents: list[str],
    size: int = BYTES,
    made: Mapping[str, str] = {},
) -> Scored:
    """A data folder whose manifest records all of DOCUMENTS."""
    tokenizer = tokenizer_of(tokens, folder)
    write_shard(folder / "a_val_0.bin", tokenizer.encode_documents(documents))
    split = {"files": {}, "documents": len(DOCUMENTS), "source_bytes": size}
    manifest = {"source": dict(made), "splits": {"val": split}}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return open_scored(folder, None, None, None)


@pytest.mark.parametrize("kind", ["ours", "ours, no bytes"])
def test_tokens_of_the_whole_text_hold(kind: str, tmp_path: Path):
    check = source(inputs_of(tmp_path, kind, DOCUMENTS))
    assert check.passed, check
    assert f"of {len(DOCUMENTS)} documents; the source has {BYTES:,}" in check.found


def test_text_that_normalisation_changes_is_another_text(tmp_path: Path):
    check = source(inputs_of(tmp_path, "contest's, bytes", DOCUMENTS, size=BYTES + 100))
    assert check.passed is None and "normalisation" in check.found


def test_documents_that_were_left_out_are_missed(tmp_path: Path):
    """Three hard documents of 14 had been dropped, for 0.05 bits per byte."""
    check = source(inputs_of(tmp_path, "ours", DOCUMENTS[1:]))
    assert check.passed is False and f"of {len(DOCUMENTS) - 1} documents" in check.found
    check = source(inputs_of(tmp_path, "ours", [DOCUMENTS[0][:50], *DOCUMENTS[1:]]))
    assert check.passed is False and "are missing" in check.found


def test_documents_are_counted_however_many_bytes_there_are(tmp_path: Path):
    """A short one in 100 could be left out of a text that a tokenizer normalises."""
    half = len(DOCUMENTS[0]) // 2
    parted = [DOCUMENTS[0][:half], DOCUMENTS[0][half:], *DOCUMENTS[1:]]
    for documents in (DOCUMENTS[1:], parted):
        size = sum(len(text.encode()) for text in documents)
        check = source(inputs_of(tmp_path, "ours", documents, size))
        assert check.passed is False
        assert f"of {len(documents)} documents; the source has {size:,} of" in check.found


def test_byte_pairs_are_judged_without_their_package(tmp_path: Path):
    (tmp_path / "tokenizer.tiktoken").write_bytes(content_of(encodings.Encoding()))
    for documents, passed in ((DOCUMENTS, True), (DOCUMENTS[1:], False)):
        write_shard(tmp_path / "a_val_0.bin", encodings.documents_of(documents))
        split = {"files": {}, "documents": len(DOCUMENTS), "source_bytes": BYTES}
        (tmp_path / MANIFEST_NAME).write_text(json.dumps({"splits": {"val": split}}))
        check = source(open_scored(tmp_path, None, None, None))
        assert check.passed is passed, check


def test_a_tokenizer_that_folds_case_makes_another_text(tmp_path: Path):
    check = source(inputs_of(tmp_path, "folds case", DOCUMENTS))
    assert check.passed is False and "folds case" in check.found


def test_more_bytes_than_a_text_has_are_found(tmp_path: Path):
    inputs = inputs_of(tmp_path, "ours", DOCUMENTS)
    more = inputs.byte_table.base.copy()
    more[read(tmp_path, "a b")] += 1
    table = dataclasses.replace(inputs.byte_table, base=more)
    check = source(dataclasses.replace(inputs, byte_table=table))
    assert check.passed is False and "bytes for the" in check.found


def read(folder: Path, text: str) -> np.ndarray:
    return np.unique(tokenizer_of("ours", folder).encode(text))


def test_without_a_manifest_the_source_is_unknown(tmp_path: Path):
    inputs = inputs_of(tmp_path, "ours", DOCUMENTS)
    (tmp_path / MANIFEST_NAME).unlink()
    assert source(inputs).passed is None


def test_the_contest_s_split_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = inputs_of(tmp_path, "ours", DOCUMENTS, made=DOWNLOAD)
    assert "not the tokenizer of the contest's sp1024" in source(inputs).found
    digest = inputs.hashes()["tokenizer.model"]
    known = published.Published(digest, tokens=len(inputs.validation))
    monkeypatch.setitem(published.VARIANTS, "sp1024", known)
    assert "the source has 151,080,891 of 50,000" in source(inputs).found
    monkeypatch.setitem(published.VARIANTS, "sp1024", dataclasses.replace(known, tokens=5))
    assert "but the contest's sp1024 has 5" in source(inputs).found


def test_a_run_that_scored_other_files_is_broken(tmp_path: Path):
    inputs = inputs_of(tmp_path, "ours", DOCUMENTS)
    hashes = inputs.hashes()
    assert set(hashes) == {"tokenizer.model", "a_val_0.bin"}
    assert data(Partial(data=hashes), inputs).passed
    check = data(Partial(data=hashes | {"a_val_0.bin": "0" * 64}), inputs)
    assert check.passed is False and "a_val_0.bin" in check.found
    assert data(Partial(), inputs).passed is None
