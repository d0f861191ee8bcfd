"""JSON and TOML from files that others may have written.

`parse_json` and `parse_toml` raise ValueError with one line. `read_json` and `read_toml` read a
file and raise InputError; a pydantic model checks the form of JSON.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from errors import InputError
from reading.regular import read_bytes

MAX_DEPTH = 64
MAX_KEY_PARTS = 100
TOML_BYTES = 1 << 16
JSON_BYTES = 1 << 26
INT_DIGITS = 19  # of an integer of 64 bits
LONG_NUMBER = re.compile(rb"[0-9]{%d}" % INT_DIGITS)


class Form(BaseModel):
    """What a file must hold; further fields are kept. Numbers are finite, types strict."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


FormT = TypeVar("FormT", bound=BaseModel)


def parse_json(text: bytes | str, *, nonfinite: bool = False) -> Any:
    """Return a JSON value of at most `MAX_DEPTH` levels and of integers that fit 64 bits.

    Args:
        nonfinite: whether NaN and infinities may be among its numbers.

    Raises:
        ValueError: anything else.
    """
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    whole = _integer if LONG_NUMBER.search(raw) else None
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_int=whole, parse_constant=None if nonfinite else _constant
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        check_depth(value)
    return value


def parse_toml(text: bytes) -> dict[str, Any]:
    """Return a TOML table, within the limits of `parse_json`.

    Raises:
        ValueError: anything else.
    """
    # Python's parser takes a time that grows with the square of a key's parts, and more.
    if any(line.count(b".") > MAX_KEY_PARTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {MAX_KEY_PARTS} dots")
    try:
        value = tomllib.loads(text.decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not valid TOML ({error})") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_depth(value)
    return value


def check_depth(value: object) -> None:
    """Raise ValueError for lists and tables of more than `MAX_DEPTH` levels, or a long integer."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, int) and abs(each) >= 2**64:
                raise ValueError(f"an integer has more than {INT_DIGITS} digits")
        level = below
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def checked(value: object, form: type[FormT]) -> FormT:
    """Return a value as a model has it. Raises ValueError with the first complaint, in one line."""
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    try:
        return form.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {said}" if where else said) from None


def read_json(
    path: Path, form: type[FormT], remedy: str, *, limit: int = JSON_BYTES, links: bool = True
) -> FormT:
    """Return what a JSON file holds.

    Args:
        path: the file.
        form: what it must hold.
        remedy: what the user can do, the end of the error's line.
        limit: bytes of the file.
        links: whether it may be a symbolic link.

    Raises:
        InputError: missing, too large, no JSON, or of another form.
    """
    text = read_bytes(path, limit, remedy, links=links)
    try:
        return checked(parse_json(text), form)
    except ValueError as error:
        raise InputError(f"{path}: {error}; {remedy}") from None


def read_toml(path: Path, remedy: str, *, links: bool = True) -> dict[str, Any]:
    """Return the table that a TOML file holds; arguments and errors as for `read_json`."""
    text = read_bytes(path, TOML_BYTES, remedy, links=links)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}; {remedy}") from None


def _constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > INT_DIGITS:
        raise ValueError(f"an integer has more than {INT_DIGITS} digits")
    return int(digits)
