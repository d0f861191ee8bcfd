"""What JSON and TOML of others may hold."""

import math
import time
from pathlib import Path

import pytest

from errors import InputError
from reading.structured import MAX_DEPTH, Form, parse_json, parse_toml, read_json, read_toml


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_json_is_read_as_it_is():
    assert parse_json(b'{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}
    assert parse_json(nested(MAX_DEPTH)) is not None
    assert parse_json("0.12345678901234567890") == 0.12345678901234568
    assert parse_json("9223372036854775807") == 2**63 - 1
    assert math.isnan(parse_json("NaN", nonfinite=True))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not JSON"),
        ("\ud800", "not UTF-8|not JSON"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "levels deep"),
        (nested(MAX_DEPTH + 2), "levels deep"),
        ('{"a":' * 3000, "levels deep"),
        ("NaN", "NaN, which is no number"),
        ("-Infinity", "which is no number"),
        ("1" * 400, "more than 19 digits"),
        ("-" + "1" * 5001, "more than 19 digits"),
    ],
)
def test_other_json_is_one_line(text: str | bytes, fault: str):
    with pytest.raises(ValueError, match=fault) as refused:
        parse_json(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = ", "Invalid value"),
        ("a = " + "[" * 3000, "levels deep"),
        ("a = " + nested(MAX_DEPTH + 2), "levels deep"),
        ("a = " + "1" * 5001, "integer"),
        ("a = " + "1" * 400, "more than 19 digits"),
        ("a" + ".a" * 30_000 + " = 1", "dots"),
        (b"a = '\xff'", "not UTF-8"),
    ],
)
def test_other_toml_is_one_line_and_quick(tmp_path: Path, text: str | bytes, fault: str):
    raw = text if isinstance(text, bytes) else text.encode()
    began = time.monotonic()
    with pytest.raises(ValueError, match=fault):
        parse_toml(raw)
    (tmp_path / "a.toml").write_bytes(raw)
    with pytest.raises(InputError, match=f"a.toml: .*({fault}).*; mend it") as refused:
        read_toml(tmp_path / "a.toml", "mend it")
    assert "\n" not in str(refused.value)
    assert time.monotonic() - began < 2


class Pair(Form):
    count: int
    share: float


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"count": "1", "share": 1}', "count: .* valid integer"),
        ('{"count": true, "share": 1}', "count: .* valid integer"),
        ('{"count": 1, "share": 1e999}', "share: .* finite"),
        ('{"count": 1}', "share: Field required"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_form_is_strict(tmp_path: Path, text: str, fault: str):
    path = tmp_path / "a.json"
    path.write_text('{"count": 1, "share": 2, "more": [3]}')
    found = read_json(path, Pair, "mend it")
    assert (found.count, found.share, found.model_dump()["more"]) == (1, 2.0, [3])
    path.write_text(text)
    with pytest.raises(InputError, match=f"a.json: .*{fault}.*; mend it"):
        read_json(path, Pair, "mend it")
