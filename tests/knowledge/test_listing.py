"""Lists of scores as JSON: read for a tokenizer, or refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.tokenizer import Tokenizer
from errors import InputError
from knowledge.listing import read_list
from tests.knowledge.conftest import VOCAB_SIZE


def test_a_list_becomes_scores(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"264": 1, "39": 0.0, "262": 0.517, str(VOCAB_SIZE - 1): 0.2637}))
    scores = read_list(path, tokenizer)
    assert (scores.tokenizer, scores.vocab_size) == (tokenizer.sha256, VOCAB_SIZE)
    assert scores.ids.tolist() == [39, 262, 264, VOCAB_SIZE - 1]
    np.testing.assert_array_equal(scores.scores * 31, np.array([0, 16, 31, 8], np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[0.5]", "no list of scores"),
        ("{}", "no list of scores"),
        (f'{{"{VOCAB_SIZE}": 0.5}}', f"'{VOCAB_SIZE}' is no token id"),
        ('{"-1": 0.5}', "'-1' is no token id"),
        ('{"²": 0.5}', "'²' is no token id"),
        (f'{{"{"9" * 5000}": 0.5}}', "is no token id"),
        ('{"the": 0.5}', "'the' is no token id"),
        ('{"5": 1.01}', "score of 5 is no number from 0 to 1"),
        ('{"5": -0.1}', "score of 5"),
        ('{"5": NaN}', "score of 5"),
        ('{"5": true}', "score of 5"),
        ('{"5": "0.5"}', "score of 5"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(
    tmp_path: Path, tokenizer: Tokenizer, text: str, message: str
) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"list\.json: .*{message}") as caught:
        read_list(path, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        read_list(tmp_path / "absent.json", tokenizer)
