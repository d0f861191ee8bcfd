"""Python text with as few spaces and lines as its meaning needs."""

import io
import tokenize
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

# Before Python 3.12 an f-string is one token.
BEGINS, ENDS = (getattr(tokenize, f"FSTRING_{name}", -1) for name in ("START", "END"))
UNSEEN = {tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER}


class Line(NamedTuple):
    """A line with all that a statement or the head of a block may extend over."""

    level: int
    text: str
    simple: bool
    """Whether a semicolon and another simple statement may follow."""


def tight(text: str) -> str:
    """Return a module's text without spaces and ends of lines that are there for the eye only.

    Simple statements that follow each other share a line; if they are a block, so does its head.
    """
    joined = _with_heads(_with_neighbours([*_lines("".join(_pieces(text)))]))
    return "".join("\t" * line.level + line.text + "\n" for line in joined)


def _pieces(text: str) -> Iterator[str]:
    at, before, depth = 0, "\n", 0
    for token, begin, end in _tokens(text):
        gap, word = text[at:begin], text[begin:end]
        if begin == end:  # an indent's end, or the end of all
            continue
        free = before[-1] != "\n" and not depth and not gap.strip(" ")
        yield "" if free and not _would_merge(before[-1], word[0]) else gap
        yield word
        at, before = end, word
        depth += (token.type == BEGINS) - (token.type == ENDS)


def _lines(text: str) -> Iterator[Line]:
    level, first, last = 0, -1, 0
    for token, begin, end in _tokens(text):
        level += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if token.type == tokenize.NEWLINE:
            found = text[first:last]
            yield Line(level, found, not found.endswith(":") and not found.startswith("@"))
            first = -1
        elif token.type not in UNSEEN:
            first, last = begin if first < 0 else first, end


def _with_neighbours(lines: list[Line]) -> list[Line]:
    found: list[Line] = []
    for line in lines:
        if line.simple and found and found[-1].simple and found[-1].level == line.level:
            found[-1] = line._replace(text=f"{found[-1].text};{line.text}")
        else:
            found.append(line)
    return found


def _with_heads(lines: list[Line]) -> list[Line]:
    found: list[Line] = []
    for line, after in zip(lines, [*lines[1:], Line(0, "", False)], strict=False):
        whole = line.level > max(after.level, found[-1].level if found else 0)
        if line.simple and whole:
            found[-1] = Line(found[-1].level, found[-1].text + line.text, False)
        else:
            found.append(line)
    return found


def _tokens(text: str) -> Iterator[tuple[tokenize.TokenInfo, int, int]]:
    """Yield tokens and where they begin and end."""
    starts = [0, *accumulate(len(line) for line in io.StringIO(text))]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        yield token, begin, end


def _would_merge(left: str, right: str) -> bool:
    """Return whether two tokens that touch would be read as one."""
    in_name = left.isalnum() or left == "_"
    return in_name and (right.isalnum() or right in "_.")
