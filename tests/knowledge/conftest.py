"""A tokenizer whose vocabulary holds some whole words, made once a session."""

import pytest

from data.tokenizer import Tokenizer
from tests.small import trained_tokenizer

WORDS = "entity object plant animal system of the and a quick science cause thing move"
VOCAB_SIZE = 360


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    documents = [f"{WORDS} 12 é E {WORDS}."] * 20
    return trained_tokenizer(documents, VOCAB_SIZE, tmp_path_factory.mktemp("tokenizer"))
