"""Files as users have them: other fields and kinds, bad records, long texts, long windows."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data import documents
from data.documents import Skipped
from data.readers import corpus
from errors import InputError

TEXTS = ["first", "zweites\nmit Zeile", "第三 🙂"]


def read(path: Path, name: str = "text") -> list[str]:
    return [document.text for document in corpus((path,), name).documents()]


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_another_field_is_read_and_a_missing_one_answered_by_those_there_are(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(*({"content": text, "id": 1} for text in TEXTS)))
    assert read(path, "content") == TEXTS
    with pytest.raises(
        InputError, match=r"x.jsonl:1: no field \"text\"; there are 'content', 'id'"
    ):
        read(path)
    table = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "Text": ["x"]}), table)
    with pytest.raises(InputError, match=r"no column \"text\"; there are 'id', 'Text': .*--field"):
        read(table)


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_a_binary_column_is_text(tmp_path: Path, kind: pyarrow.DataType):
    path = tmp_path / "x.parquet"
    values = pyarrow.array([text.encode() for text in TEXTS], kind)
    pyarrow.parquet.write_table(pyarrow.table({"raw": values}), path)
    assert read(path, "raw") == TEXTS
    bad = pyarrow.array([b"x", b"a\xff"], kind)
    pyarrow.parquet.write_table(pyarrow.table({"raw": bad}), path)
    with pytest.raises(InputError, match=r"row 2: not UTF-8 text \(byte 1\)"):
        read(path, "raw")


def test_integers_of_any_length_are_read_where_nobody_needs_them(tmp_path: Path):
    """U8: a plain ValueError of Python ended in a traceback."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "x", "id": ' + b"9" * 5000 + b"}\n")
    assert read(path) == ["x"]
    path.write_bytes(b'{"text": ' + b"9" * 5000 + b"}\n")
    with pytest.raises(InputError, match="no string in the field"):
        read(path)


def test_zstandard_s_long_windows_frames_and_skippable_frames(tmp_path: Path):
    """U9: a sound file was called corrupt."""
    path, content = tmp_path / "x.jsonl.zst", lines(*({"text": text} for text in TEXTS))
    long = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    frame = zstandard.ZstdCompressor(compression_params=long).compressobj()
    whole = frame.compress(content) + frame.flush()
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
    path.write_bytes(whole + skippable + zstandard.compress(content))
    assert read(path) == TEXTS * 2
    path.write_bytes(whole[:-4])
    with pytest.raises(InputError, match="ends within a frame"):
        read(path)


def test_text_may_be_compressed_and_json_a_list_or_a_flow(tmp_path: Path):
    text = tmp_path / "x.txt.gz"
    text.write_bytes(gzip.compress(b"\xef\xbb\xbf" + TEXTS[1].encode()))
    assert read(text) == [TEXTS[1]]
    path, records = tmp_path / "x.json", [{"id": 2, "text": text} for text in TEXTS]
    for content in (
        json.dumps(records),
        json.dumps(records, indent=2, ensure_ascii=False) + "\n",
        "\n".join(json.dumps(record, indent=1) for record in records),
        json.dumps(TEXTS),
    ):
        path.write_text(content)
        assert read(path) == TEXTS
    for content in ("[]", " ", ""):
        path.write_text(content)
        assert read(path) == []


@pytest.mark.parametrize("size", [1, 7, 64])
def test_json_is_read_whatever_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    monkeypatch.setattr("data.readers.BLOCK", size)
    path, long = tmp_path / "x.json", ["x" * 300 + '"\\\u00e9\n', "-1e5 true", *TEXTS]
    path.write_text(json.dumps([{"a": [1.5, None, True], "text": text} for text in long]))
    assert read(path) == long


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"text": "a"}, {"text": "b"', "record 2: not JSON"),
        ('[{"text": "a"}', "record 2: not JSON"),
        ('[{"text": "a"} {"text" "b"}, {"text": "' + "c" * 50 + '"}]', "record 2: not JSON"),
        ("[" * 100_000, "record 1: nested too deeply|record 1: not JSON"),
        ('{"data": [{"text": "a"}]}', "record 1: no field \"text\"; there are 'data'"),
    ],
)
def test_json_that_is_none_is_one_line(tmp_path: Path, content: str, said: str):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_bad_records_are_skipped_and_counted_with_their_first_places(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    bad = [b"{", b'{"text": null}', b'{"text": "\\ud83d"}', b'{"text": "\xff"}', b"[]", b"5"]
    path.write_bytes(b"\n".join([b'{"text": "a"}', *bad, b'{"text": "b"}']))
    latin = tmp_path / "y.txt"
    latin.write_bytes(b"x" * 50 + "grün".encode("latin-1"))
    table = tmp_path / "z.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["c", None]}), table)
    skipped = Skipped()
    files = corpus((path, latin, table), skip_bad=True)
    texts = [document.text for document in files.documents(skipped=skipped)]
    assert texts == ["a", "b", "c"]
    assert skipped.count == len(bad) + 2
    assert skipped.first[0].startswith("x.jsonl:2: not JSON")
    assert len(skipped.first) == 5
    with pytest.raises(InputError, match=r"holds no document; 1 bad records, y.txt: not UTF-8"):
        corpus((latin,), skip_bad=True).check()


@pytest.mark.parametrize("name", ["e.txt", "e.json", "e.jsonl.xz", "e.txt.gz", "e.parquet"])
def test_an_empty_file_is_a_bad_record(tmp_path: Path, name: str):
    """One in a folder ended the command, with --skip-bad, too."""
    for each, text in (("a.txt", "a"), (name, ""), ("z.txt", "b")):
        (tmp_path / each).write_text(text)
    paths = tuple(sorted(tmp_path.iterdir()))
    with pytest.raises(InputError, match=rf"/{name}: holds no document$"):
        corpus(paths).check()
    files, skipped = corpus(paths, skip_bad=True), Skipped()
    files.check()
    assert [document.text for document in files.documents(skipped=skipped)] == ["a", "b"]
    assert (skipped.count, skipped.first) == (1, [f"{name}: holds no document"])
    with pytest.raises(InputError, match="holds no document; 1 bad records"):
        corpus((tmp_path / name,), skip_bad=True).check()


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_a_long_text_comes_in_parts_cut_at_ends_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(documents, "PART_CHARACTERS", 10)
    monkeypatch.setattr("data.readers.BLOCK", block)
    text = "中文\r\nab cd ef gh\n" + "x" * 25 + "\n\nend"
    (tmp_path / "x.txt").write_bytes(text.encode())
    (tmp_path / "x.jsonl").write_bytes(lines({"text": text}, {"text": "y"}))
    read_all = corpus((tmp_path / "x.txt",)).documents()
    long = [(document.text, document.continues) for document in read_all]
    assert "".join(part for part, _ in long) == text
    assert [part for part, _ in long[:3]] == ["中文\r\n", "ab cd ef ", "gh\n"]
    assert [continues for _, continues in long] == [False] + [True] * (len(long) - 1)
    both = corpus((tmp_path / "x.jsonl",)).documents()
    assert [(each.text, each.continues) for each in both] == [*long, ("y", False)]


def test_a_large_text_is_never_in_memory_as_a_whole(tmp_path: Path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"a line of thirty-two characters\n" * (1 << 20))
    tracemalloc.start()
    try:
        count = sum(len(document.text) for document in corpus((path,)).documents())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == path.stat().st_size == 1 << 25
    assert peak < 1 << 24
