"""The inputs of a run, opened and checked together before any slow import."""

from dataclasses import dataclass
from pathlib import Path

from data.shards import TokenStream
from data.tokenizer import ByteTable, Tokenizer, check_vocabulary, find_tokenizer
from errors import InputError


@dataclass(frozen=True)
class Inputs:
    """A data folder's splits, memory-mapped, the bytes of each token, and the tokenizer's file."""

    train: TokenStream
    validation: TokenStream
    byte_table: ByteTable
    tokenizer: Path


def open_inputs(
    folder: Path | None, tokenizer_path: Path | None, vocab_size: int, bos_id: int
) -> Inputs:
    """Map the shards of ``folder``, read each token once, and read the tokenizer or the one given.

    A token id beyond the vocabulary would end in a fault on the GPU, steps later and without a
    name; reading all tokens also warms the page cache for the loader.

    Raises:
        InputError: something is missing, corrupt, or does not fit the vocabulary or its BOS.
    """
    if folder is None:
        raise InputError("no data: give --data DIR (python -m data builtin makes a first one)")
    path = find_tokenizer(folder, tokenizer_path)
    tokenizer = Tokenizer(path)
    check_vocabulary(tokenizer, vocab_size)
    if tokenizer.bos_id != bos_id:
        raise InputError(f"the tokenizer's BOS is token {tokenizer.bos_id}, not bos_id {bos_id}")
    train = TokenStream.open(folder, "train", vocab_size)
    validation = TokenStream.open(folder, "val", vocab_size)
    for stream in (train, validation):
        stream.check_tokens()
    return Inputs(train, validation, ByteTable.of(tokenizer), path)
