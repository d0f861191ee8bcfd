"""Bytes against the decoded text of several tokenizers, sizes and clocks against their limits."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import sentencepiece

from artifact.submission.code_size import Code
from data.tokenizer import ByteTable, Tokenizer
from data.vocabulary import read_tokenizer
from errors import InputError
from evaluation.audit import checks
from evaluation.audit.accounting import (
    bytes_of_text,
    clocks,
    decoded_bytes,
    read_summary,
    size,
    whole_split,
)
from evaluation.audit.case import Case
from evaluation.audit.observing import TokenArray
from evaluation.score import Split
from files import PROJECT
from settings import Settings
from tests.data import encodings

LEARNED = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 6,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; übrigens. " * 5,
    "A flock has no leader: each bird watches the seven birds that are nearest to it. " * 7,
]
# Runs of spaces, a space at either end, lines, characters that no tokenizer here has learned.
DOCUMENTS = [
    *LEARNED,
    " a  dog   and ",
    "x",
    "fox\n\n\tfox",
    "the 🐦 and 鳥 mind",
    "🐦🐦 dog",
    " 🐦 dog",
]
CONTEST = {"normalization_rule_name": "nmt_nfkc"}
OURS = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "add_dummy_prefix": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "contest's, bytes": CONTEST | {"byte_fallback": True},
    "contest's, no bytes": CONTEST | {"byte_fallback": False},
    "ours": OURS | {"byte_fallback": True},
    "ours, no bytes": OURS | {"byte_fallback": False},
    "unigram, no bytes": {"model_type": "unigram", "vocab_size": 90},
}


def tokenizer_of(kind: str, folder: Path) -> Tokenizer:
    model = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 330,
        "pad_id": 0,
        "bos_id": 1,
        "eos_id": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNED),
        model_writer=model,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
        **(options | KINDS[kind]),
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


@pytest.mark.parametrize("kind", KINDS)
def test_counted_bytes_are_those_of_the_text(kind: str, tmp_path: Path):
    """Of each document: its UTF-8 bytes as the tokenizer keeps them, but for unknown characters
    and first spaces, which are said."""
    tokenizer = tokenizer_of(kind, tmp_path)
    table, tokens = ByteTable.of(tokenizer), tokenizer.encode_documents(DOCUMENTS)
    check = bytes_of_text(tokenizer, table, TokenArray(tokens))
    assert check.passed, check
    unknown = int((tokens == tokenizer.processor.unk_id()).sum())
    assert f" {unknown} unknown" in check.found
    # Byte pieces leave nothing unknown; without them two characters in three documents are.
    assert (unknown == 0) == (KINDS[kind].get("byte_fallback") is True)
    counted = int(table.count(tokens[:-1], tokens[1:]).sum())
    assert f"{counted:,} bytes of {len(DOCUMENTS)} documents" in check.found
    if kind == "ours":
        spaces = sum(text.startswith(" ") for text in DOCUMENTS)
        assert counted + spaces == sum(len(text.encode()) for text in DOCUMENTS)
        assert f"{spaces} first spaces" in check.found


def test_decoded_bytes_leave_out_what_is_unknown(tmp_path: Path):
    tokenizer = tokenizer_of("ours, no bytes", tmp_path)
    document = tokenizer.encode_documents(["the 🐦 dog"])
    sizes = decoded_bytes(tokenizer, ByteTable.of(tokenizer), document)
    assert sizes == (len("the ") + len(" dog"), 1, 1)


def test_byte_pairs_are_counted_by_their_bytes(monkeypatch: pytest.MonkeyPatch):
    encodings.install(monkeypatch)
    tokenizer = read_tokenizer(Path("gpt2"))
    tokens = tokenizer.encode_documents(DOCUMENTS)[:-2]  # within a character, or not
    check = bytes_of_text(tokenizer, tokenizer.byte_table(), TokenArray(tokens))
    assert check.passed, check.found
    longer = tokenizer.byte_table().base + 1
    table = dataclasses.replace(tokenizer.byte_table(), base=longer)
    assert bytes_of_text(tokenizer, table, TokenArray(tokens)).passed is False


@pytest.mark.parametrize("column", ["base", "leading_space", "boundary"])
def test_a_table_that_counts_more_or_less_is_caught(column: str, tmp_path: Path):
    """One byte more for a token, no space where there is one, a space behind a boundary."""
    tokenizer = tokenizer_of("contest's, no bytes", tmp_path)
    table, tokens = ByteTable.of(tokenizer), tokenizer.encode_documents(DOCUMENTS)
    changed = getattr(table, column).copy()
    if column == "base":
        changed[tokens[5]] += 1
    elif column == "leading_space":
        changed[:] = False
    else:
        changed[tokenizer.bos_id] = False
    check = bytes_of_text(
        tokenizer, dataclasses.replace(table, **{column: changed}), TokenArray(tokens)
    )
    assert check.passed is False and "bytes counted" in check.found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder's artifact of 1000 bytes beside its summary."""
    artifact = tmp_path / "artifact.bin"
    artifact.write_bytes(bytes(1000))
    write_summary(artifact)
    return artifact


def write_summary(artifact: Path, **changes: object) -> None:
    scores = {
        "raw, plain": row(1, 1, 999.0),
        "roundtrip, plain": row(9, 10, 200.0),
        "roundtrip, sliding": row(9, 10, 300.0),
    }
    summary = {"code_files": {"train_gpt.py": 7}, "code_bytes": 7, "artifact_bytes": 1000}
    summary |= {"train_seconds": 599.5, "scores": scores} | changes
    (artifact.parent / "summary.json").write_text(json.dumps(summary))


def row(tokens: int, size: int, seconds: float) -> dict[str, float]:
    return {"bpb": 1.0, "nats": 1.0, "tokens": tokens, "bytes": size, "seconds": seconds}


def test_size_is_of_the_judge_s_code_and_the_artifact(run: Path, tmp_path: Path):
    """A run's own word on its code counts nothing: it says 7 bytes here."""
    code, summary = tmp_path / "train_gpt.py", read_summary(run)
    code.write_bytes(bytes(500))
    check = size(run, summary, code, Settings(), 1500)
    assert check.passed and "the run counted 7 bytes" in check.found
    assert size(run, summary, code, Settings(), 1499).passed is False
    write_summary(run, artifact_bytes=999)
    assert "another artifact" in size(run, read_summary(run), code, Settings(), 1500).found


def test_without_a_file_the_code_is_this_project_s_packed(run: Path):
    (run.parent / "summary.json").unlink()
    assert read_summary(run) is None
    packed = Code.of(PROJECT, Settings()).bytes
    assert size(run, None, PROJECT, Settings(), packed + 1000).passed
    assert size(run, None, PROJECT, Settings(), packed + 999).passed is False


def test_the_code_carries_the_run_s_settings_and_the_limit_is_the_judge_s(run: Path):
    """The audit counted the code with the judge's settings, so that it differed from the run."""
    of_run = Settings(num_layers=7, ve_layers=[5], size_limit=5)
    (run.parent / "settings.toml").write_text("num_layers = 7\nve_layers = [5]\nsize_limit = 5\n")
    counted = Code.of(PROJECT, of_run).bytes
    write_summary(run, code_bytes=counted)
    judge = Settings(size_limit=counted + 1000, data=Path("judge"))
    case = Case(run, judge, Mock(), read_summary(run), PROJECT, Mock())
    (check,) = checks.size(case)
    assert check.passed and f"code {counted:,} " in check.found
    assert "the run counted" not in check.found
    assert checks.settings_of(case).data == Path("judge")


def test_a_size_with_files_that_the_judge_has_not_is_not_known(run: Path):
    check = size(run, None, PROJECT, Settings(kg_scores="/no/file.scores"), 1 << 30)
    assert check.passed is None and "not known: /no/file.scores: no token scores" in check.found


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", "", "[" * 3000, '{"scores": {"roundtrip, plain": {"tokens": "x"}}}'),
        *('{"train_seconds": "599"}', '{"code_bytes": 1e400}', '{"scores": []}'),
    ],
)
def test_a_summary_that_is_none_is_an_input_error(run: Path, text: str):
    (run.parent / "summary.json").write_text(text)
    with pytest.raises(InputError, match=r"summary\.json: .*; remove it to audit the artifact"):
        read_summary(run)


def test_a_summary_that_is_a_link_is_refused(run: Path, tmp_path: Path):
    (tmp_path / "other.json").write_text("{}")
    (run.parent / "summary.json").unlink()
    (run.parent / "summary.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(InputError, match="is a link"):
        read_summary(run)


def test_each_clock_has_its_limit(run: Path):
    """The evaluation is that of the artifact: 500 s here."""
    training, evaluation = clocks(read_summary(run))
    assert training.passed and evaluation.passed
    assert "500.0 of 600" in evaluation.found
    write_summary(run, train_seconds=601.0, scores={"roundtrip, TTT sgd": row(9, 10, 601.0)})
    assert [check.passed for check in clocks(read_summary(run))] == [False, False]
    assert [check.passed for check in clocks(None)] == [None, None]


def test_the_run_s_scores_are_of_the_whole_split(run: Path):
    ones = np.ones(50, np.int16)
    table = ByteTable(ones, ones < 0, ones < 0)
    nine, ten, eleven = (TokenArray(np.arange(count)) for count in (9, 10, 11))
    summary = read_summary(run)
    assert whole_split(summary, Split(ten, table)).passed is False  # nine bytes, not ten
    table.base[3] = 2
    assert whole_split(summary, Split(ten, table)).passed
    assert "10 bytes, but the split has 8 and 9" in whole_split(summary, Split(nine, table)).found
    part = whole_split(summary, Split(eleven, table))
    assert part.passed is None and "the first 9 of 10 tokens" in part.found
    assert whole_split(None, Split(ten, table)).passed is None
