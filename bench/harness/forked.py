"""Runs of train.py as forks of this process, which has imported what they need."""

import gc
import importlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

import command_line
import evaluation.displays
import train
from data.making import (
    describe_shard,
    write_manifest,
)
from data.shards import write_shard
from data.tokenizer import TOKENIZER_NAME, Tokenizer, train_tokenizer
from runtime.signals import SIGNALS

# What a run imports within functions.
IMPORTED = ("brotli", "evaluation.report", "matplotlib.pyplot", "training.finishing")
IMPORTED += ("training.opening", "training.rank")
VOCAB = 300


def preload() -> None:
    """Import what a run needs, and start no thread that a fork would lose."""
    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()


class Run:
    """One run in a process of its own, from when it can be interrupted.

    Args:
        arguments: of train.py.
        output: the file that gets what it prints.
        picture: whether it draws its picture, which takes a third of its time.
    """

    def __init__(self, arguments: Sequence[str], output: Path, picture: bool = True) -> None:
        self.output = output
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            if not picture:
                evaluation.displays.draw = lambda *_: None
            _child(arguments, output, told)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        self.began = time.monotonic()

    def kill(self, number: int) -> None:
        """Send a signal. The process is not awaited yet, so its id is its own."""
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Return whether it has ended; it stays to be awaited."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def wait(self) -> int:
        """Return the exit code, -N after a deadly signal N."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def said(self) -> list[str]:
        """Return the lines that it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace").splitlines()


def _child(arguments: Sequence[str], output: Path, told: int) -> None:
    """Be the run; never returns."""
    try:
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["train.py", *arguments]
        with SIGNALS:
            os.write(told, b".")
            os.close(told)
            command_line.end(train.main)
            os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def make_data(folder: Path) -> Path:
    """Write a data folder of random words, the same each time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 6))) for _ in range(80)]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(165)]
    folder.mkdir(parents=True)
    train_tokenizer(texts, VOCAB, folder / TOKENIZER_NAME)
    tokenizer, splits = Tokenizer(folder / TOKENIZER_NAME), {}
    for split, documents in (("train", texts[:150]), ("val", texts[150:])):
        path = folder / f"fineweb_{split}_000000.bin"
        write_shard(path, tokenizer.encode_documents(documents))
        splits[split] = {"files": {path.name: describe_shard(path)}, "source_bytes": 9}
    write_manifest(folder, {"kind": "prepare"}, tokenizer, splits)
    return folder
