"""Each kind of file gives its documents; each kind of damage gives one line with its place."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data.documents import check_apart
from data.readers import corpus
from errors import InputError

TEXTS = ["first", "zweites\nmit Zeile", "第三 🙂"]
LINES = "\n".join(json.dumps({"id": 7, "text": text}) for text in TEXTS).encode()


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".jsonl": bytes,
    ".jsonl.gz": gzip.compress,
    ".jsonl.xz": lzma.compress,
    ".jsonl.zst": zstd,
}


def read(*paths: Path) -> list[str]:
    return [document.text for document in corpus(paths).documents()]


def failure(path: Path) -> str:
    """The message of reading ``path``: one line that names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_of_every_compression(tmp_path: Path, suffix: str):
    path = tmp_path / f"docs{suffix}"
    path.write_bytes(COMPRESS[suffix](LINES + b"\n\n"))
    assert read(path) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_members_compressed_one_after_the_other_are_all_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"docs{suffix}"
    path.write_bytes(COMPRESS[suffix](LINES + b"\n") * 2)
    assert read(path) == TEXTS * 2


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path: Path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXTS[1].encode())
    assert read(path) == [TEXTS[1]]


def test_parquet_rows_over_several_groups(tmp_path: Path):
    path = tmp_path / "docs.parquet"
    table = pyarrow.table({"id": [1, 2, 3], "text": TEXTS})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    assert read(path) == TEXTS


def test_order_is_the_files_and_progress_ends_at_their_size(tmp_path: Path):
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    read_all = corpus((tmp_path / "b.txt", tmp_path / "a.jsonl"))
    reports: list[int] = []
    assert [each.text for each in read_all.documents(reports.append)] == ["b", *TEXTS]
    assert reports == sorted(reports)
    assert reports[-1] == read_all.size == 1 + len(LINES)


def test_documents_without_text_are_left_out(tmp_path: Path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    assert read(path) == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', "docs.jsonl:2: not JSON"),
        (b'{"txt": "x"}', 'docs.jsonl:2: no field "text"'),
        (b'["text"]', 'docs.jsonl:2: no field "text"'),
        (b'{"text": 5}', 'docs.jsonl:2: no string in the field "text"'),
        (b'{"text": "\xff"}', "docs.jsonl:2: not UTF-8"),
        (b'{"text": "\\ud83d"}', "docs.jsonl:2: half a surrogate pair"),
        (b"[" * 100_000, "docs.jsonl:2: nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    assert message in failure(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.xz", ".jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut off", "not compressed"])
def test_a_corrupt_compressed_file_is_named(tmp_path: Path, suffix: str, damage: str):
    path = tmp_path / f"docs{suffix}"
    lines = b"".join(b'{"text": "%d"}\n' % (number**5) for number in range(2000))
    whole = COMPRESS[suffix](lines)
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut off" else LINES)
    assert "corrupt or cut off after line" in failure(path)


def test_bad_text_and_parquet_files_are_named(tmp_path: Path):
    text = tmp_path / "latin.txt"
    text.write_bytes("grün".encode("latin-1"))
    assert "not UTF-8 text (byte 2)" in failure(text)
    parquet = tmp_path / "docs.parquet"
    parquet.write_bytes(b"PAR1" + b"junk" * 20)
    assert "corrupt after row 0" in failure(parquet)
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), parquet)
    assert 'no column "text"' in failure(parquet)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None]}), parquet)
    assert "row 2: no string" in failure(parquet)


def test_the_check_finds_what_is_missing_unknown_or_empty(tmp_path: Path):
    for name in ("empty.txt", "empty.jsonl", "table.csv"):
        (tmp_path / name).write_text("")
    for name, message in (
        ("absent.txt", "no such file"),
        ("empty.txt", "holds no document"),
        ("empty.jsonl", "holds no document"),
        ("table.csv", "unknown kind of file"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            corpus((tmp_path / name,)).check()


def test_a_file_may_not_be_trained_and_validated_on(tmp_path: Path):
    check_apart([tmp_path / "a.txt"], [tmp_path / "b.txt"])
    with pytest.raises(InputError, match="both to train and to validate"):
        check_apart([tmp_path / "a.txt"], [tmp_path / "." / "a.txt"])
