"""An artifact that writes: its network, the tokenizer of its run, and what it prints."""

import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import torch

from artifact.format.container import remedy
from artifact.restore import restore
from data.inputs import fits
from data.tokenizer import find_tokenizer
from data.vocabulary import AnyTokenizer, read_tokenizer
from errors import InputError
from evaluation.generation import Prompt, Sampling, written
from evaluation.subject import MOST_WINDOW, check_tokenizer, settings_of_run
from model.gpt import GPT
from reading.regular import open_regular
from runtime.device import device_type
from settings.load import merge
from settings.options import Given

# Taken from the run's folder that an artifact lies in.
OF_RUN = {"data", "tokenizer", "eval_seq_len", "dtype"}
STDIN = "-"
MOST_PROMPTS = 1 << 26  # bytes
RULE = "-" * 20


@dataclass(frozen=True)
class Writer:
    """A network and its tokenizer; ``length`` is the most tokens of context."""

    model: GPT
    tokenizer: AnyTokenizer
    length: int

    @classmethod
    def open(cls, artifact: Path, given: Given) -> "Writer":
        """Return the writer of an artifact.

        Args:
            artifact: the file. If it lies in a run's folder, the run's settings of ``OF_RUN`` are
                the defaults.
            given: settings by name.

        Raises:
            InputError: artifact, tokenizer or settings are missing, impossible or do not fit.
        """
        open_regular(artifact, remedy(artifact)).close()
        of_run = settings_of_run(artifact, OF_RUN)
        settings = merge({**given, "eval_stride": "0"}, beneath=of_run)  # nothing slides
        if not 2 <= settings.eval_seq_len <= MOST_WINDOW:
            raise InputError(f"eval_seq_len {settings.eval_seq_len}: give 2 to {MOST_WINDOW}")
        model = restore(artifact, settings.eval_seq_len, torch.device(device_type(settings.device)))
        if settings.tokenizer is None and settings.data is None:
            raise InputError(
                f"{artifact}: holds no tokenizer; give --tokenizer FILE, or --data DIR of its data"
            )
        path = find_tokenizer(settings.data or Path(), settings.tokenizer)
        if settings.dtype != "auto":
            model.dtype = getattr(torch, settings.dtype)
        tokenizer = read_tokenizer(path)
        fits(tokenizer, model.config.vocab_size, model.config.bos_id)
        check_tokenizer(artifact, tokenizer)
        return cls(model, tokenizer, settings.eval_seq_len)


def encoded(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Return a prompt's tokens: BOS, then those of the text; an empty text is BOS alone.

    Raises:
        InputError: there is text, but it encodes to nothing, or is no Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"prompt {text!r}: is no UTF-8") from None
    tokens = tokenizer.encode(text)
    if text and not tokens:
        raise InputError(f"prompt {text!r}: encodes to no token; give some text, or none at all")
    return [tokenizer.bos_id, *tokens]


def prompts_of(given: str, stdin: BinaryIO) -> list[str]:
    """Return the prompts: the one given, or for "-" those of stdin, one a line.

    Raises:
        InputError: stdin has no prompt, too much text, or none in UTF-8.
    """
    if given != STDIN:
        return [given]
    text = stdin.read(MOST_PROMPTS + 1)
    if len(text) > MOST_PROMPTS:
        raise InputError(f"stdin: more than {MOST_PROMPTS >> 20} MiB of prompts; give fewer")
    try:
        prompts = [line for line in text.decode().splitlines() if line]
    except UnicodeDecodeError as error:
        raise InputError(f"stdin: no UTF-8 at byte {error.start}") from None
    if not prompts:
        raise InputError("stdin: holds no prompt; give one a line")
    return prompts


def write(
    writer: Writer, texts: Sequence[str], seeds: Sequence[int], sampling: Sampling, out: TextIO
) -> str:
    """Print a text for each prompt and seed, as it is written; return a line on how fast.

    Args:
        writer: of the texts.
        texts: the prompts.
        seeds: of the texts of each prompt.
        sampling: how tokens are drawn.
        out: where texts go; a line of dashes lies between two of them.

    Raises:
        InputError: a prompt encodes to nothing.
    """
    tokens = [encoded(writer.tokenizer, text) for text in texts]
    prompts = [Prompt(each, seed) for each in tokens for seed in seeds]
    begin, number, drawn = time.perf_counter(), 0, 0
    for piece in written(writer.model, writer.tokenizer, prompts, sampling):
        between = f"\n{RULE}\n" if piece.number != number else ""
        number, drawn = piece.number, drawn + piece.tokens
        out.write(between + (shown(piece.characters) if out.isatty() else piece.characters))
        out.flush()
    out.write("\n")
    seconds = time.perf_counter() - begin
    said = f"{drawn:,} tokens in {seconds:.1f} s, {drawn / seconds:,.0f} a second"
    longest = max(map(len, tokens))
    if longest > sampling.length:
        said += f"; of a prompt's {longest:,} tokens the last {sampling.length // 2:,} were read"
    return said


def shown(text: str) -> str:
    """Return text that a terminal only shows: control characters are escaped."""
    return "".join(
        each.encode("unicode_escape").decode()
        if unicodedata.category(each) == "Cc" and each not in "\n\t"
        else each
        for each in text
    )
