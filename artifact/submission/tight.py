"""Python text with as few spaces as its meaning needs."""

import io
import tokenize
from collections.abc import Iterator
from itertools import accumulate

# Before Python 3.12 an f-string is one token.
BEGINS, ENDS = (getattr(tokenize, f"FSTRING_{name}", -1) for name in ("START", "END"))


def tight(text: str) -> str:
    """Return a module's text without the spaces that stand between two tokens for the eye only."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    starts = [0, *accumulate(len(line) for line in io.StringIO(text))]
    at, before, depth = 0, "\n", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        gap, word = text[at:begin], text[begin:end]
        if begin == end:  # an indent's end, or the end of all
            continue
        free = before[-1] != "\n" and not depth and not gap.strip(" ")
        yield "" if free and not _would_merge(before[-1], word[0]) else gap
        yield word
        at, before = end, word
        depth += (token.type == BEGINS) - (token.type == ENDS)


def _would_merge(left: str, right: str) -> bool:
    """Return whether two tokens that touch would be read as one."""
    in_name = left.isalnum() or left == "_"
    return in_name and (right.isalnum() or right in "_.")
