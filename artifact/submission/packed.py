"""``train_gpt.py``: the whole project as one small Python file that unpacks itself.

The file is a few lines around a string: all modules without comments and docstrings, one after the
other, compressed by Brotli after each frequent word became one character. The compressed bytes are
written in base 252, a byte a digit, because a string holds all bytes but four as they are.
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import brotli

from artifact.submission import public, shorten, strip, tight
from artifact.submission.bundle import END, HEAD, contents, read
from artifact.submission.public import Names, renamed
from errors import InputError
from files import PROJECT
from reading import cache

if TYPE_CHECKING:
    from settings import Settings

ENCODING = "latin-1"
# Bytes that a string of a Python file cannot hold as they are; the others are digits.
UNQUOTED = b'\0\r"\\'
DIGITS = bytes(range(256)).translate(None, UNQUOTED)
BLOCK = 352  # digits, which hold a byte less: 252^352 > 256^351
CODES = (*range(1, 9), *range(14, 32), *range(127, 256))  # characters that stand for words
STUB = f'''# coding: {ENCODING}
"""Murmuration in one file. train_gpt_readable.py is the same code to read."""
import brotli
DIGITS=bytes(range(256)).translate(None,{UNQUOTED})
CODED="""...""".encode("{ENCODING}")
TEXT=b""
for at in range(0,len(CODED),{BLOCK}):
 part,n=CODED[at:at+{BLOCK}],0
 for digit in part:n=n*{len(DIGITS)}+DIGITS.find(digit)
 TEXT+=n.to_bytes(len(part)-1)
WORDS,_,TEXT=brotli.decompress(TEXT).partition(b"\\0")
WORDS=zip([*range(1,9),*range(14,32),*range(127,256)],WORDS.decode().split("\\n"))
CODE,*PARTS=TEXT.decode("{ENCODING}").translate(dict(WORDS)).split("\\0")
exec(CODE)
'''
WORD = re.compile(r"[^\W\d]\w+", re.ASCII)
OTHER = re.compile(r"[^\0\t\n\r -~]")
FILL = "FILES.update(zip(PARTS[::2], PARTS[1::2]))\n"
AUDITOR = "evaluation/audit/worker.py"
TABLE, SIZES, MOST = "stripped", "packed", 1_000  # modules, files


def pack(root: Path, settings: "Settings") -> bytes:
    """Return the file, equal for equal code and settings under one version of Python and Brotli.

    Arguments and errors as for `artifact.submission.bundle.contents` and `wrapped`.
    """
    return _packed(_files(root, settings))


def size(root: Path, settings: "Settings") -> tuple[int, str]:
    """Return the file's bytes and their SHA-256; what is known from earlier costs no time.

    Arguments and errors as for `pack`.
    """
    known, files = cache.load(SIZES), _files(root, settings)
    key = hashlib.sha256(repr((_makers(), files)).encode()).hexdigest()
    if found := re.fullmatch(r"(\d{1,9}) ([0-9a-f]{64})", known.get(key, "")):
        return int(found[1]), found[2]
    script = _packed(files)
    measured = len(script), hashlib.sha256(script).hexdigest()
    cache.save(SIZES, known | {key: "{} {}".format(*measured)}, MOST)
    return measured


def _files(root: Path, settings: "Settings") -> dict[str, str]:
    return {HEAD: read(root / HEAD).decode() + FILL + END, **contents(root, settings)}


def _makers() -> str:
    """Return all that a file depends on beside its contents."""
    files = (Path(m.__file__ or "") for m in (strip, shorten, tight, public))
    texts = (read(file).decode() for file in (Path(__file__), *files))
    return "".join((sys.version, brotli.__version__, _auditor(), *texts))


def _auditor() -> str:
    """Return the text of the one module outside that calls packed ones: an audit's."""
    return read(PROJECT / AUDITOR).decode()


def _packed(files: Mapping[str, str]) -> bytes:
    texts = small(files)
    parts = [texts.pop(HEAD)]
    for name, text in texts.items():
        parts += [name, text]
    return wrapped("\0".join(parts)).encode(ENCODING)


@lru_cache(maxsize=2)
def wrapped(content: str) -> str:
    """Return the text of a file that runs what is in front of the content's first zero character.

    Its characters are the bytes that it is stored as.

    Raises:
        InputError: more different characters beyond ASCII than ``CODES``.
    """
    words = abbreviated(content)
    short = dict(zip(words, map(chr, CODES), strict=False))
    text = OTHER.sub(lambda found: short[found[0]], content)
    text = WORD.sub(lambda found: short.get(found[0], found[0]), text)
    whole = b"\0".join(("\n".join(words).encode(), text.encode(ENCODING)))
    coded = brotli.compress(whole, quality=11, lgwin=24)
    return STUB.replace("...", digits(coded).decode(ENCODING))


def abbreviated(text: str) -> list[str]:
    """Return what one character shall stand for: all beyond ASCII, then words that save most."""
    others, most = sorted(set(OTHER.findall(text))), len(CODES)
    if len(others) > most:
        raise InputError(f"the settings hold {len(others)} characters beyond ASCII; {most} can be")
    counts = Counter(WORD.findall(text))
    frequent = sorted(counts, key=lambda word: ((1 - len(word)) * counts[word], word))
    return [*others, *frequent][:most]


def digits(content: bytes) -> bytes:
    """Return bytes as digits that a string of three quotes can hold: 0.3 % more."""
    found = bytearray()
    for at in range(0, len(content), BLOCK - 1):
        block = content[at : at + BLOCK - 1]
        number, coded = int.from_bytes(block), bytearray()
        for _ in range(len(block) + 1):
            number, digit = divmod(number, len(DIGITS))
            coded.append(DIGITS[digit])
        found += coded[::-1]
    return bytes(found)


def small(texts: Mapping[str, str]) -> dict[str, str]:
    """Return files with their modules stripped, and with short names for what modules share.

    What is known of a module from earlier costs no time.
    """
    known = cache.load(TABLE)
    before = len(known)
    outside = strip.Outside.of((*texts.values(), _auditor()))
    packages = {name.split("/")[0].removesuffix(".py") for name in texts}
    facts = [word for words in (*outside, packages) for word in ("", *sorted(words))]
    found, names, facts = dict(texts), {}, [_makers(), *facts]
    for name, text in texts.items():
        if name.endswith(".py"):
            key = hashlib.sha256("\0".join([*facts, text]).encode()).hexdigest()
            if key not in known:
                known[key] = _stripped(text, outside, packages)
            made, stay, found[name] = known[key].split("\n", 2)
            names[name] = Names(made.split(), stay.split())
    if len(known) > before:
        cache.save(TABLE, known, MOST)
    template = found[HEAD] if names.pop(HEAD, None) else ""
    return found | renamed({name: found[name] for name in names}, names, template + _auditor())


def _stripped(text: str, outside: strip.Outside, packages: Collection[str]) -> str:
    """Return a module's names, those that stay, and the stripped module, from a line each on."""
    stripped = strip.strip(text, outside)
    return "\n".join((*map(" ".join, Names.of(stripped, packages)), stripped))
