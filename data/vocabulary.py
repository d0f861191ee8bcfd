"""Tokenizers of all kinds, read by what their file or name says."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from data.tokenizer import BYTE_PAIRS_NAME, ENCODINGS, Tokenizer
from errors import InputError

if TYPE_CHECKING:
    from data.byte_pairs import BytePairTokenizer

AnyTokenizer: TypeAlias = "Tokenizer | BytePairTokenizer"


def read_tokenizer(path: Path) -> AnyTokenizer:
    """Load a SentencePiece model, a ``*.tiktoken`` file, or an encoding of `ENCODINGS` by name.

    Raises:
        InputError: there is no such tokenizer, it is unusable, or a contest's file cannot read it.
    """
    named = str(path) in ENCODINGS and not path.is_file()
    if named or path.suffix == Path(BYTE_PAIRS_NAME).suffix:
        if find_spec("data.byte_pairs") is None:
            raise InputError(f"{path}: this file reads SentencePiece models only; give data of one")
        from data.byte_pairs import BytePairTokenizer

        return BytePairTokenizer(path)
    return Tokenizer(path)
