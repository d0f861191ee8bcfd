"""The tokenizer (SentencePiece), its training, and how many bytes of text each token stands for."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece

from data.shards import MAX_VOCAB_SIZE, check_folder
from errors import InputError
from files import atomic_write
from reading.regular import read_bytes

TOKENIZER_NAME = "tokenizer.model"
BYTE_PAIRS_NAME = "tokenizer.tiktoken"
ENCODINGS = ("gpt2", "r50k_base", "p50k_base")
"""Vocabularies of the tiktoken package that fit a shard; in place of a tokenizer's path."""
Normalisation = Literal["identity", "nmt_nfkc"]
"""What a tokenizer that is trained here does to text first: nothing, or as the contest's do."""
LEAST_VOCAB_SIZE = 261  # 256 bytes, 4 special tokens and a piece
SAMPLE_BYTES = 50_000_000
MODEL_BYTES = 1 << 26
SPACE_MARK = "▁"


class Tokenizer:
    """A SentencePiece model that marks the beginning of documents with a BOS token."""

    def __init__(self, path: Path) -> None:
        """Load and check ``path``.

        Raises:
            InputError: the file is missing, is no SentencePiece model, has no BOS token, or has
                more tokens than a uint16 shard can hold, or its bytes cannot be counted.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such tokenizer model")
        self.path = path
        model = read_bytes(path, MODEL_BYTES, "give a SentencePiece model")
        try:
            if not model:
                raise RuntimeError("it is empty")
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size: int = self.processor.vocab_size()
            self.pieces = [self.processor.id_to_piece(token) for token in range(self.vocab_size)]
        except (RuntimeError, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a SentencePiece model ({error})") from None
        self.bos_id: int = self.processor.bos_id()
        self.sha256 = hashlib.sha256(model).hexdigest()
        if self.bos_id < 0:
            raise InputError(f"{path}: has no BOS token, which must begin each document")
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise InputError(
                f"{path}: vocabulary of {self.vocab_size}; a shard holds at most {MAX_VOCAB_SIZE}"
            )
        self._check_space()

    def _check_space(self) -> None:
        """Refuse a model that may write a space as the three bytes of the space mark.

        These would count as 3 bytes of text (openai/parameter-golf issue 897).
        """
        processor = self.processor
        space = processor.piece_to_id(SPACE_MARK)
        special = (processor.is_unknown, processor.is_control, processor.is_unused)
        if not any(kind(space) for kind in special):
            return
        mark = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        marked = any(SPACE_MARK in piece for piece in self.pieces)
        if all(processor.is_byte(token) for token in mark) and marked:
            raise InputError(
                f"{self.path}: has bytes but no piece {SPACE_MARK}, so a space would count as 3 "
                "bytes; train a tokenizer with that piece"
            )

    def byte_table(self) -> "ByteTable":
        """Return how many bytes each token counts."""
        return ByteTable.of(self)

    def encode(self, text: str) -> list[int]:
        """Return token ids of ``text``, without BOS."""
        return self.processor.encode(text)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return the documents' tokens in order, uint16, BOS before each."""
        ids = self.processor.encode(list(texts), add_bos=True, num_threads=1)
        return np.fromiter(chain.from_iterable(ids), dtype=np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; control tokens stand for nothing."""
        return self.processor.decode([int(token) for token in ids])


def find_tokenizer(folder: Path, given: Path | None) -> Path:
    """Return the tokenizer that the user gave, or else the one in the data folder.

    Raises:
        InputError: there is no such folder or file.
    """
    if given is not None:
        if given.is_file() or str(given) in ENCODINGS:
            return given
        raise InputError(f"{given}: no such tokenizer; give a file, or {' or '.join(ENCODINGS)}")
    check_folder(folder)
    for name in (TOKENIZER_NAME, BYTE_PAIRS_NAME):
        if (folder / name).is_file():
            return folder / name
    if not any(folder.glob("*.bin")):
        raise InputError(
            f"{folder}: holds no {TOKENIZER_NAME} and no shards; the project's "
            "`python -m data prepare` makes a data folder of text"
        )
    raise InputError(
        f"{folder}: holds no {TOKENIZER_NAME}; put it there or give its path as --tokenizer "
        "(gpt2 for shards of GPT-2's tokens)"
    )


def train_tokenizer(
    documents: Iterable[str],
    vocab_size: int,
    path: Path,
    normalisation: Normalisation = "identity",
) -> None:
    """Train a BPE model like the contest's on a sample of ``documents`` and write it to ``path``.

    The same documents give the same bytes. Like the contest's, it splits digits and has pad, BOS,
    EOS, unknown as ids 0-3, and bytes encode rare characters.

    Args:
        documents: the text; it is read once.
        vocab_size: of the model, bytes and special ids included.
        path: of the model.
        normalisation: identity is lossless, and runs of white space are separate pieces, so bits
            per byte are those of the text itself. By nmt_nfkc they are those of the text that the
            contest's tokenizers keep, so that scores of both compare.

    Raises:
        InputError: the text allows no vocabulary of exactly this size.
    """
    check_vocabulary_size(vocab_size)
    lossless = normalisation == "identity"
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(documents, SAMPLE_BYTES)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.999,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name=normalisation,
            remove_extra_whitespaces=not lossless,
            allow_whitespace_only_pieces=lossless,
            add_dummy_prefix=False,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            # Documents are longer than the default of 4192 bytes, beyond which it skips them.
            max_sentence_length=1 << 30,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rsplit("] ", 1)[-1] or "it holds nothing to learn"
        if needed := re.search(r"required_chars\. \d+ vs (\d+)", reason):
            reason = f"its bytes and characters need {needed[1]} or more"
        raise InputError(
            f"no tokenizer of {vocab_size} tokens can be trained on this text: {reason}"
        ) from None
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    if found != vocab_size:
        raise InputError(
            f"the training text is too small for {vocab_size} tokens: it gives {found}; "
            f"ask for {found} or fewer, or give more text"
        )
    with atomic_write(path) as file:
        file.write(model.getvalue())


def check_vocabulary_size(vocab_size: int) -> None:
    """Check that a tokenizer has room for all bytes, and its ids can be written to a shard.

    Raises:
        InputError: they cannot.
    """
    if not LEAST_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise InputError(
            f"vocabulary {vocab_size}: choose one from {LEAST_VOCAB_SIZE} to {MAX_VOCAB_SIZE}"
        )


def sample(documents: Iterable[str], limit_bytes: int) -> list[str]:
    """Return every n-th document, n the least power of two that keeps to ``limit_bytes``.

    One pass, bounded memory, evenly spread over the corpus, and the same at every call.
    """
    kept: list[str] = []
    held, stride = 0, 1
    for index, text in enumerate(documents):
        if index % stride:
            continue
        kept.append(text[:limit_bytes])
        held += len(text.encode())
        while held > limit_bytes and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            held = sum(len(text.encode()) for text in kept)
    return kept


@dataclass(frozen=True)
class ByteTable:
    """UTF-8 bytes that each token stands for, as the contest's bits-per-byte score counts them.

    base: (vocab,) int16, bytes without the leading space mark; a byte token 1, a control token 0.
    leading_space: (vocab,) bool, the piece begins with the space mark.
    boundary: (vocab,) bool, control, unknown or unused: a space mark after it counts no byte.
    """

    base: np.ndarray
    leading_space: np.ndarray
    boundary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ByteTable":
        """Return the table of a tokenizer's vocabulary."""
        processor, size = tokenizer.processor, tokenizer.vocab_size
        base = np.zeros(size, dtype=np.int16)
        leading_space = np.zeros(size, dtype=np.bool_)
        boundary = np.zeros(size, dtype=np.bool_)
        for token in range(size):
            boundary[token] = (
                processor.is_control(token)
                or processor.is_unknown(token)
                or processor.is_unused(token)
            )
            piece = tokenizer.pieces[token]
            if processor.is_byte(token):
                base[token] = 1
            elif not boundary[token]:
                leading_space[token] = piece.startswith(SPACE_MARK)
                # A mark further in, as in a run of spaces, is the one byte of a space.
                base[token] = len(piece.removeprefix(SPACE_MARK).replace(SPACE_MARK, " ").encode())
        return cls(base, leading_space, boundary)

    def count(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return int64 bytes of each target after its previous token; the arrays have one shape."""
        space = self.leading_space[targets] & ~self.boundary[previous]
        return self.base[targets].astype(np.int64) + space
