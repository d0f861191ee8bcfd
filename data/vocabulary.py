"""Tokenizers of all kinds, read by what their file or name says."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from data.tokenizer import BYTE_PAIRS_NAME, ENCODINGS, Tokenizer

if TYPE_CHECKING:
    from data.byte_pairs import BytePairTokenizer

AnyTokenizer: TypeAlias = "Tokenizer | BytePairTokenizer"


def read_tokenizer(path: Path) -> AnyTokenizer:
    """Load a SentencePiece model, a ``*.tiktoken`` file, or an encoding of `ENCODINGS` by name.

    Raises:
        InputError: there is no such tokenizer, or it is unusable.
    """
    named = str(path) in ENCODINGS and not path.is_file()
    if named or path.suffix == Path(BYTE_PAIRS_NAME).suffix:
        from data.byte_pairs import BytePairTokenizer

        return BytePairTokenizer(path)
    return Tokenizer(path)
