"""Each kind of file gives its columns; each kind of damage gives one line that names the file."""

import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from errors import InputError
from knowledge.tables import read_columns

ROWS = [("1", "über, all"), ("02", 'say "so"'), ("x", "")]
TEXTS = {
    ".tsv": 'label\tid\tnote\nüber, all\t1\tn\nsay "so"\t02\tn\n\tx\tn\n',
    ".csv": 'label,id,note\n"über, all",1,n\n"say ""so""",02,n\n"",x,"two\nlines"\n',
    ".jsonl": "".join(json.dumps({"id": a, "label": b, "note": [1]}) + "\n" for a, b in ROWS),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


def read(path: Path) -> list[tuple[str, str]]:
    table = read_columns(path, ("id", "label"), lambda share: None)
    return list(zip(*(table[name].to_pylist() for name in ("id", "label")), strict=True))


def failure(path: Path) -> str:
    """The message of reading ``path``: one line that names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", TEXTS)
def test_every_kind_and_compression_gives_the_same_rows(
    tmp_path: Path, kind: str, compression: str
) -> None:
    path = tmp_path / f"nodes{kind}{compression}"
    path.write_bytes(COMPRESS[compression](TEXTS[kind].encode()))
    assert read(path) == ROWS


def test_ids_of_jsonl_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "nodes.jsonl"
    path.write_text('{"id": 1, "label": "a", "more": 2.5}\n{"id": -20, "label": "b"}\n')
    assert read(path) == [("1", "a"), ("-20", "b")]
    path.write_text('{"id": 1, "label": "a"}\n{"id": "x", "label": "b"}\n')
    assert "changed from number to string" in failure(path)


def test_csv_values_may_hold_newlines_wherever_arrow_cuts_the_file(tmp_path: Path) -> None:
    path, label = tmp_path / "nodes.csv", "word\n" * 300
    path.write_text("id,label\n" + "".join(f'{number},"{label}"\n' for number in range(3000)))
    assert read(path) == [(str(number), label) for number in range(3000)]


def test_report_rises_to_one(tmp_path: Path) -> None:
    """How far the first says depends on how far Arrow's threads have read ahead."""
    path = tmp_path / "nodes.tsv"
    path.write_text("id\tlabel\n" + f"1\t{'word ' * 2000}\n" * 2000)
    heard: list[float] = []
    read_columns(path, ("id", "label"), heard.append)
    assert heard == sorted(heard)
    assert len(heard) > 10
    assert heard[-1] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nodes.tsv", b"id\tname\n1\ta\n", "label"),
        ("nodes.tsv", b"id\tlabel\n", "holds no rows"),
        ("nodes.tsv", b"", "cannot be read as tsv"),
        ("nodes.tsv", b"id\tlabel\n1\ta\tb\n", "cannot be read as tsv"),
        ("nodes.tsv", b"id\tlabel\n1\t\xff\n", "cannot be read as tsv"),
        ("nodes.jsonl", b'{"id": "1"}\n', "1 rows lack 'label'"),
        ("nodes.jsonl", b'{"id": 1.5, "label": "a"}\n', "cannot be read as jsonl"),
        ("nodes.jsonl", b'["1", "a"]\n', "cannot be read as jsonl"),
        ("nodes.jsonl", b'{"id": "1", "label": "\xff"}\n', "cannot be read as jsonl"),
        (
            "nodes.tsv.gz",
            gzip.compress(b"id\tlabel\n1\ta\n", mtime=0)[:-9],
            "cannot be read as tsv",
        ),
        ("nodes.tsv.xz", b"id\tlabel\n1\ta\n", "cannot be read as tsv"),
        ("nodes.parquet", b"PAR1", "unknown kind of file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in failure(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "nodes.tsv")


@pytest.mark.parametrize("name", [kind + end for kind in TEXTS for end in COMPRESS])
def test_damage_anywhere_is_an_input_error_or_another_text(tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    path, kind = tmp_path / f"nodes{name}", f".{name.split('.')[1]}"
    whole = COMPRESS[name.removeprefix(kind)](TEXTS[kind].encode() * 3)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))])
        try:
            assert all(isinstance(text, str) for row in read(path) for text in row)
        except InputError as error:
            assert "\n" not in str(error)
