"""Text comes token by token without a broken character, and is the text of all tokens."""

import io
import random
from pathlib import Path

import pytest
import sentencepiece

from data.text_stream import KEPT, LONGEST, TextStream
from data.tokenizer import Tokenizer
from data.vocabulary import AnyTokenizer, read_tokenizer
from tests.data.encodings import install


@pytest.fixture(scope="module")
def collapsing(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One as the contest's: it strips spaces, and puts one before the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("collapsing") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


@pytest.fixture(params=["lossless", "collapsing"])
def either(request, tokenizer: Tokenizer, collapsing: Tokenizer) -> Tokenizer:
    return tokenizer if request.param == "lossless" else collapsing


def parts(tokenizer: AnyTokenizer, tokens: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.add([token]) for token in tokens), stream.rest()]


def test_characters_of_several_bytes_come_whole(either: Tokenizer):
    text = "bada 🙂 ß中é kolu🙂"
    tokens = either.encode(text)
    found = parts(either, tokens)
    assert "".join(found) == text
    assert all("\ufffd" not in part for part in found)
    assert found.count("") == 3 + 1 + 1 + 3 + 1  # bytes that wait, and the empty rest
    assert found[-1] == ""


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_are_the_text_of_all_tokens(either: Tokenizer, seed: int):
    draw = random.Random(seed)
    pieces = [n for n in range(400) if either.processor.is_byte(n)]
    spaces = [n for n in range(400) if either.pieces[n].startswith("▁")]
    for _ in range(40):
        kinds = draw.choices([range(400), pieces, pieces[0xC0:], spaces], k=draw.randint(1, 9))
        tokens = [draw.choice(kind) for kind in kinds for _ in range(draw.randint(1, 9))]
        assert "".join(parts(either, tokens)) == either.decode(tokens)


def test_tokens_of_bytes_may_begin_and_end_within_characters(monkeypatch: pytest.MonkeyPatch):
    install(monkeypatch)
    pairs, draw = read_tokenizer(Path("gpt2")), random.Random(0)
    assert "".join(parts(pairs, pairs.encode("中 🙂!"))) == "中 🙂!"
    for count in (5, 20, 3 * LONGEST):
        tokens = draw.choices(range(pairs.vocab_size), k=count)
        assert "".join(parts(pairs, tokens)) == pairs.decode(tokens)


def test_a_long_text_is_decoded_from_its_last_tokens_only(either: Tokenizer):
    draw = random.Random(0)
    tokens = [draw.randrange(400) for _ in range(6 * LONGEST)]
    stream = TextStream(either)
    text = "".join(stream.add([token]) for token in tokens) + stream.rest()
    assert text == either.decode(tokens)
    assert len(stream.tokens) <= LONGEST + KEPT


def test_an_unfinished_character_at_the_end_is_shown_at_the_end(tokenizer: Tokenizer):
    tokens = tokenizer.encode("🙂")
    assert parts(tokenizer, tokens[:-1])[:-1] == [""] * (len(tokens) - 1)
    assert set(parts(tokenizer, tokens[:-1])[-1]) == {"\ufffd"}
