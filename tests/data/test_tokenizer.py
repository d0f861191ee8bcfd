"""The tokenizer is checked when loaded, trained alike each time, and its bytes add up."""

import string
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data.tokenizer import (
    SPACE_MARK,
    ByteTable,
    Tokenizer,
    find_tokenizer,
    sample,
    train_tokenizer,
)
from errors import InputError


def test_special_ids_are_the_contests(tokenizer: Tokenizer):
    processor = tokenizer.processor
    ids = (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id())
    assert ids == (0, 1, 2, 3)
    assert (tokenizer.bos_id, tokenizer.vocab_size) == (1, 400)


def test_text_comes_back_with_unseen_characters_and_without_bos(tokenizer: Tokenizer):
    text = "bada kolu 7 – ß 中 🙂"
    ids = tokenizer.encode(text)
    assert tokenizer.bos_id not in ids
    assert tokenizer.decode(ids) == text


def test_documents_are_encoded_one_by_one_behind_bos(tokenizer: Tokenizer):
    texts = ["bada kolu", "mi sa"]
    tokens = tokenizer.encode_documents(texts)
    expected = [token for text in texts for token in [1, *tokenizer.encode(text)]]
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == expected


def test_training_twice_gives_the_same_bytes(documents: list[str], tmp_path: Path):
    for name in ("a", "b"):
        train_tokenizer(documents, 350, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nmt_nfkc_keeps_the_text_that_the_contests_tokenizers_keep(
    documents: list[str], tmp_path: Path
):
    train_tokenizer(documents, 350, tmp_path / "model", "nmt_nfkc")
    tokenizer = Tokenizer(tmp_path / "model")
    kept = tokenizer.decode(tokenizer.encode(" bada \n\n kolu\u00a0mi \ufb01 "))
    assert kept == "bada kolu mi fi"


def test_documents_beyond_sentencepieces_line_limit_are_learnt_from(tmp_path: Path):
    train_tokenizer(["zyx " * 5000], 266, tmp_path / "long.model")
    assert len(Tokenizer(tmp_path / "long.model").encode("zyx")) == 1


@pytest.mark.parametrize(
    ("vocab_size", "texts", "words"),
    [
        (280, [string.ascii_letters], "its bytes and characters need 312 or more"),
        (300, [], "it holds nothing to learn"),
    ],
)
def test_the_reason_is_said_in_our_words(
    vocab_size: int, texts: list[str], words: str, tmp_path: Path
):
    """It was empty, or named an option that there is not."""
    with pytest.raises(InputError, match=rf"on this text: {words}$"):
        train_tokenizer(texts, vocab_size, tmp_path / "x.model")


@pytest.mark.parametrize("vocab_size", [100, 5000, 0, 65536])
def test_an_impossible_vocabulary_is_one_line(vocab_size: int, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        train_tokenizer(["ab cd ef"], vocab_size, tmp_path / "x.model")
    assert str(vocab_size) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_sample_is_bounded_even_and_a_pure_function():
    texts = [f"{index:04d}" for index in range(1000)]
    kept = sample(iter(texts), limit_bytes=1000)
    assert kept == texts[::4]
    assert sample(iter(texts[:250]), limit_bytes=1000) == texts[:250]


def test_what_is_no_usable_model_is_refused(tmp_path: Path, model_path: Path):
    junk = tmp_path / "junk.model"
    for content in (b"", b"not a model" * 50, model_path.read_bytes()[:1000]):
        junk.write_bytes(content)
        with pytest.raises(InputError, match="not a SentencePiece model"):
            Tokenizer(junk)
    with pytest.raises(InputError, match="no such tokenizer"):
        Tokenizer(tmp_path / "absent.model")


def test_a_model_without_bos_is_refused(documents: list[str], tmp_path: Path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_prefix=str(tmp_path / "bare"),
        vocab_size=100,
        model_type="bpe",
        bos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(InputError, match="no BOS"):
        Tokenizer(tmp_path / "bare.model")


def test_a_space_as_three_bytes_is_refused(tokenizer: Tokenizer, tmp_path: Path):
    """U1: a space without a piece of its own was counted as 3 bytes, and a score 26 % too low."""
    model, piece = tokenizer.path.read_bytes(), b"\x0a\x03" + SPACE_MARK.encode()
    assert model.count(piece) == 1
    (tmp_path / "x.model").write_bytes(model.replace(piece, b"\x0a\x03\xee\x84\xa3"))
    with pytest.raises(InputError, match="has bytes but no piece ▁, so a space would count as 3"):
        Tokenizer(tmp_path / "x.model")


def test_the_given_tokenizer_goes_before_the_folders(tmp_path: Path, model_path: Path):
    with pytest.raises(InputError, match=r"holds no tokenizer.model and no shards; .* prepare"):
        find_tokenizer(tmp_path, None)
    (tmp_path / "train.bin").touch()
    with pytest.raises(InputError, match=r"holds no tokenizer.model; put it there"):
        find_tokenizer(tmp_path, None)
    (tmp_path / "tokenizer.model").write_bytes(model_path.read_bytes())
    assert find_tokenizer(tmp_path, None) == tmp_path / "tokenizer.model"
    assert find_tokenizer(tmp_path, model_path) == model_path
    with pytest.raises(InputError, match="no such tokenizer"):
        find_tokenizer(tmp_path, tmp_path / "absent.model")
    with pytest.raises(InputError, match="absent: no such data folder"):
        find_tokenizer(tmp_path / "absent", None)


def test_bytes_of_all_tokens_are_the_texts_bytes(tokenizer: Tokenizer, documents: list[str]):
    # Normalised text whose characters bytes stand in for loses nothing but one thing: a space
    # directly after BOS, which these documents do not begin with.
    tokens = tokenizer.encode_documents(documents)
    counted = ByteTable.of(tokenizer).count(tokens[:-1], tokens[1:])
    assert counted.dtype == np.int64
    assert counted.sum() == sum(len(text.encode()) for text in documents)


def test_a_space_mark_counts_except_after_a_boundary(tokenizer: Tokenizer):
    table = ByteTable.of(tokenizer)
    spaced = next(
        token for token in range(400) if tokenizer.processor.id_to_piece(token).startswith("▁b")
    )
    length = len(tokenizer.processor.id_to_piece(spaced)) - 1
    byte = next(token for token in range(400) if tokenizer.processor.is_byte(token))
    previous = np.array([spaced, 0, 1, 2, 3, byte, spaced, spaced])
    targets = np.array([spaced, spaced, spaced, spaced, spaced, spaced, byte, 1])
    expected = [length + 1, length, length, length, length, length + 1, 1, 0]
    assert table.count(previous, targets).tolist() == expected


def test_a_trained_tokenizer_loses_no_white_space(tmp_path: Path):
    code = ["def f(x):\n    if x:\n        return  x\n\n\tä 中 ½\r\n" * 30, "a\n    b\n" * 99]
    train_tokenizer(code, 300, tmp_path / "code.model")
    trained = Tokenizer(tmp_path / "code.model")
    table = ByteTable.of(trained)
    for text in code:
        tokens = np.array([trained.bos_id, *trained.encode(text)])
        assert trained.decode(tokens[1:].tolist()) == text
        assert table.count(tokens[:-1], tokens[1:]).sum() == len(text.encode())
