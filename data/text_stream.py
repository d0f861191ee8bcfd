"""Text of tokens as they come: no character is shown before all of its bytes are there."""

from collections.abc import Iterable

from data.vocabulary import AnyTokenizer

UNFINISHED = "\ufffd"
MOST_UNFINISHED = 3  # bytes at the end that a further byte may complete to a character
LONGEST, KEPT = 128, 16  # tokens that are decoded again with each new one


class TextStream:
    """The text of a sequence of tokens that grows.

    A tokenizer decodes an unfinished character as one or more U+FFFD. Up to three of these at the
    end wait for the tokens to come. The parts that are returned, joined, are the text of all
    tokens.
    """

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.shown = 0  # characters of the text of ``tokens``

    def add(self, tokens: Iterable[int]) -> str:
        """Append tokens; return the text that is finished since the last call."""
        self.tokens += tokens
        text = self.tokenizer.decode(self.tokens)
        waiting = len(text) - len(text.rstrip(UNFINISHED))
        new = self._new(text, len(text) - min(waiting, MOST_UNFINISHED))
        if not waiting and len(self.tokens) > LONGEST:
            self._forget()
        return new

    def rest(self) -> str:
        """Return what waits at the end, a U+FFFD for each byte that remains unfinished."""
        text = self.tokenizer.decode(self.tokens)
        return self._new(text, len(text))

    def _new(self, text: str, end: int) -> str:
        new, self.shown = text[self.shown : end], end
        return new

    def _forget(self) -> None:
        """Drop all but the last tokens, unless the first of the next text would lose its space."""
        text = self.tokenizer.decode(self.tokens[-KEPT:])
        if text.strip():
            self.tokens, self.shown = self.tokens[-KEPT:], len(text)
