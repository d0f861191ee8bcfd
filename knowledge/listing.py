"""Lists of token scores as JSON, ``{"token id": score}``: how PR #1081 publishes its 358."""

import json
from pathlib import Path

import numpy as np

from data.tokenizer import Tokenizer
from errors import InputError
from knowledge.packing import best
from knowledge.scores import TokenScores


def read_list(path: Path, tokenizer: Tokenizer) -> TokenScores:
    """Return the scores of a list of ``tokenizer``'s ids; the 358 highest if there are more.

    Raises:
        InputError: no such file, no such list, an id beyond the vocabulary, a score beyond [0, 1].
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(listed, dict) or not listed:
        raise InputError(f'{path}: no list of scores, as {{"262": 0.76, "263": 0.59}} is one')
    values = np.full(tokenizer.vocab_size, np.nan)
    for token, score in listed.items():
        values[_checked_id(token, tokenizer, path)] = _checked_score(token, score, path)
    return best(tokenizer.sha256, values)


def _checked_id(token: str, tokenizer: Tokenizer, path: Path) -> int:
    known = token.isascii() and token.isdigit() and len(token) < 7
    if not known or int(token) >= tokenizer.vocab_size:
        raise InputError(f"{path}: {token[:20]!r} is no token id of {tokenizer.path}")
    return int(token)


def _checked_score(token: str, score: object, path: Path) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InputError(f"{path}: the score of {token} is no number from 0 to 1")
    return float(score)
