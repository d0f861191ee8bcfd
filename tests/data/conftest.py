"""A small text with known statistics and a tokenizer trained on it, made once a session."""

import random
from pathlib import Path

import pytest

from data.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZE = 400


def make_documents(count: int, seed: int) -> list[str]:
    """Documents of made-up words, with the odd character that the tokenizer has not seen."""
    draw = random.Random(seed)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 120))) for _ in range(count)]
    return [f"{text} – 中 {index}" for index, text in enumerate(texts)]


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return make_documents(200, seed=0)


@pytest.fixture(scope="session")
def model_path(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "small.model"
    train_tokenizer(documents, VOCAB_SIZE, path)
    return path


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Tokenizer:
    return Tokenizer(model_path)
