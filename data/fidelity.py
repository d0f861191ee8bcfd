"""What a tokenizer does to text before a score counts its bytes."""

from collections.abc import Iterator, Mapping
from string import ascii_letters
from typing import Any

from data.tokenizer import Tokenizer
from data.vocabulary import AnyTokenizer

RARE = "中🙂Ж☃"
COMPOSED = "½ﬁ２"
LOST_SHARE = 0.001  # of the text's bytes; less is not worth a line


def traits(tokenizer: AnyTokenizer) -> list[str]:
    """Return how decoded tokens differ from the text that was encoded; nothing if they do not."""
    if not isinstance(tokenizer, Tokenizer):
        return []

    def back(text: str) -> str:
        return tokenizer.decode(tokenizer.encode(text))

    def unknown(text: str) -> bool:
        return any(tokenizer.processor.is_unknown(token) for token in tokenizer.encode(text))

    known = [letter for letter in ascii_letters if back(letter).strip().lower() == letter.lower()]
    a, b = (known or ["a"])[0], (known or ["b"])[-1]
    spaced = f"{a}  {b}\n{a}\t{b}\n"
    found = {
        "folds case": any(back(letter).strip() != letter for letter in known),
        "collapses white space": back(spaced).lower() != spaced.lower(),
        "replaces characters by simpler ones": any(
            back(each).strip() != each and not unknown(each) for each in COMPOSED
        ),
        "has no tokens for rare characters": unknown(RARE),
    }
    return [trait for trait, has in found.items() if has]


def remarks(found: list[str], splits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines that say which part of a text its scores are of.

    Args:
        found: the tokenizer's `traits`.
        splits: ``source_bytes`` and ``scored_bytes`` by split, as far as they are known.
    """
    if found:
        yield f"the tokenizer {', '.join(found)}: scores are of the text that it keeps"
    for split, counts in splits.items():
        source, scored = counts.get("source_bytes"), counts.get("scored_bytes")
        if source is None or scored is None:
            continue
        if scored > source:
            yield (
                f"{split}: scores count {scored:,} bytes where the text has {source:,}, so they "
                "come out too low"
            )
        elif source - scored > LOST_SHARE * source:
            yield f"{split}: scores count {scored:,} of the text's {source:,} bytes"
