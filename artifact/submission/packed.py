"""``train_gpt.py``: the whole project as one small Python file that unpacks itself.

The file is a few lines around a string: all modules without comments and docstrings, one after the
other, compressed by bzip2. Its encoding is Latin-1, so that a byte of the string is a byte of the
file; base 85 would make it a quarter larger.
"""

import bz2
import hashlib
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from artifact.submission import shorten, strip, tight
from artifact.submission.bundle import END, HEAD, contents, read
from reading import cache

if TYPE_CHECKING:
    from settings import Settings

ENCODING = "latin-1"
STUB = f'''# coding: {ENCODING}
"""Murmuration in one file. train_gpt_readable.py is the same code to read."""
import bz2
CODE, *PARTS = bz2.decompress("""CODED""".encode("{ENCODING}")).decode().split("\\0")
exec(CODE)
'''
FILL = "FILES.update(zip(PARTS[::2], PARTS[1::2]))\n"
TABLE, MOST = "stripped", 1_000  # modules


def pack(root: Path, settings: "Settings") -> bytes:
    """Return the file. Equal code and settings give equal bytes under one version of Python.

    Arguments and errors as for `artifact.submission.bundle.contents`.
    """
    files = contents(root, settings)
    texts = small({HEAD: read(root / HEAD).decode(), **files})
    parts = [texts.pop(HEAD) + FILL + END]
    for name, text in texts.items():
        parts += [name, text]
    return _wrapped("\0".join(parts)).encode(ENCODING)


@lru_cache(maxsize=2)
def _wrapped(content: str) -> str:
    """Return the file's text, whose characters are the bytes that it is stored as."""
    coded = bz2.compress(content.encode()).decode(ENCODING)
    return STUB.replace("CODED", escaped(coded))


def escaped(text: str) -> str:
    """Return what stands for Latin-1 characters in a string of three quotes: few bytes more."""
    body = text.removesuffix('"')
    found = body.replace("\\", r"\\").replace("\r", r"\r").replace('""', r'"\"')
    # In front of a digit a short zero would be another number.
    found = re.sub("\0(?=[0-7])", r"\\x00", found).replace("\0", r"\0")
    return found + r"\"" if body != text else found


def small(texts: Mapping[str, str]) -> dict[str, str]:
    """Return files with their modules stripped; what is known from earlier costs no time."""
    known = cache.load(TABLE)
    before = len(known)
    made_by = sys.version + "".join(
        read(Path(m.__file__ or "")).decode() for m in (strip, shorten, tight)
    )
    outside = strip.Outside.of(texts.values())
    stay = [word for words in outside for word in ("", *sorted(words))]
    found = {}
    for name, text in texts.items():
        if name.endswith(".py"):
            key = hashlib.sha256("\0".join([made_by, *stay, text]).encode()).hexdigest()
            if key not in known:
                known[key] = strip.strip(text, outside)
            text = known[key]
        found[name] = text
    if len(known) > before:
        cache.save(TABLE, known, MOST)
    return found
