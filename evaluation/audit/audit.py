"""The audit of an artifact's scores: every check, on the code and weights that score, as a table.

Checks that run the evaluation many times do so on the first few windows of the split and with
chunks of two windows: the same code with smaller numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from data.vocabulary import read_tokenizer
from errors import InputError, printable
from evaluation.audit import accounting
from evaluation.audit.causality import causality, choose_cuts
from evaluation.audit.normalisation import normalisation
from evaluation.audit.one_pass import one_pass
from evaluation.audit.runs import Baseline, Check, TokenArray
from evaluation.audit.score_first import MOST_TRIALS, score_before_update
from evaluation.score import Record, Score, Scoring, Split, Tokens
from evaluation.subject import Subject
from evaluation.ttt.documents import find_documents
from evaluation.ttt.learner import Learner, Watch
from files import PROJECT
from runtime.progress import Progress

CHUNK_WINDOWS = 2
WINDOWS = 6.5  # of text: two chunks that are learned, a third, and a part
ROWS, ROW_TOKENS = 4, 64  # positions at which C2 sums probabilities
TOKENS_AT_ONCE = 16  # whose probabilities C2 takes in one call, not of rows with adapters
MARKS = {True: "[green]holds[/]", False: "[red]BROKEN[/]", None: "unknown"}


def audit(subject: Subject, cuts: int, code: Path | None = None) -> int:
    """Run all checks and print them; return 1 if one fails, else 0.

    Args:
        subject: an artifact and the data to audit it on.
        cuts: number of positions at which C1 changes the text.
        code: the file whose bytes count as code; None: what `artifact submit` makes of this code.

    Raises:
        InputError: several ranks, or a split too short to audit.
    """
    if subject.world.size > 1:
        raise InputError("an audit runs in one process; start it without torchrun")
    with Progress(None, None) as progress:
        checks = [*account(subject, code, progress), *Trial(subject, cuts, progress).checks()]
        progress.phase("audited")
    Console().print(table(checks, subject))
    return int(any(check.passed is False for check in checks))


def table(checks: list[Check], subject: Subject) -> Table:
    """Return the checks, a row each."""
    title = escape(printable(f"{subject.artifact} ({subject.backend})"))
    made = Table("check", "of", "", "found", title=title)
    for check in checks:
        found = escape(printable(check.found))
        made.add_row(check.name, check.subject, MARKS[check.passed], found)
    return made


def account(subject: Subject, code: Path | None, progress: Progress) -> list[Check]:
    """Check the bytes of the text, the bytes of the artifact, and both clocks."""
    settings, split = subject.settings, subject.split
    tokenizer = read_tokenizer(subject.inputs.tokenizer)

    def show(done: int, documents: int) -> None:
        progress.phase(f"bytes of text: {done / documents:.0%}")

    summary = accounting.read_summary(subject.artifact)
    return [
        accounting.bytes_of_text(tokenizer, split.byte_table, split.stream, show),
        accounting.whole_split(summary, split),
        accounting.size(subject.artifact, summary, code or PROJECT, settings),
        *accounting.clocks(summary),
    ]


class Trial:
    """The checks that run the evaluation.

    Args:
        subject: what is audited.
        cuts: number of positions at which C1 changes the text.
        progress: the progress line.

    Raises:
        InputError: the split is too short.
    """

    def __init__(self, subject: Subject, cuts: int, progress: Progress) -> None:
        length = subject.settings.eval_seq_len
        chunk, stream = CHUNK_WINDOWS * length, subject.inputs.validation
        if len(stream) <= 2 * chunk + 1:
            raise InputError(
                f"a split of {len(stream)} tokens is too short to audit windows of {length}: it "
                f"needs {2 * chunk + 2}; choose a smaller --seq-len"
            )
        changes = {"ttt_chunk_tokens": chunk, "ttt_lora_documents": ROWS, "val_max_tokens": 0}
        self.settings = subject.settings.model_copy(update=changes)
        self.subject, self.progress = replace(subject, settings=self.settings), progress
        self.tokens = stream.read(0, min(len(stream), int(WINDOWS * length) + 1)).copy()
        self.targets = len(self.tokens) - 1
        self.cuts = choose_cuts(self.tokens, self.settings.bos_id, chunk, cuts)
        rows = min(ROW_TOKENS, length)
        contexts = torch.from_numpy(self.tokens[: ROWS * rows].astype(np.int32))
        self.contexts = contexts.view(ROWS, rows).to(subject.world.device)

    def checks(self) -> list[Check]:
        """Run the checks of the windows and of the test-time training."""
        found = [*self.of_windows(), *self.of_training()]
        return sorted(found, key=lambda check: (check.subject, check.name))

    def of_windows(self) -> list[Check]:
        """Run C1, C2 and C4 on the evaluation by windows."""
        name = "sliding" if self.settings.eval_stride else "plain"
        vocab_size = self.settings.vocab_size
        score_fn, show = self.subject.score_fn, self._progress(name, "C2", vocab_size)
        return [
            *self.of_method(name, Baseline(self._score, self.tokens), self._whole_text()),
            normalisation(name, score_fn, self.contexts, vocab_size, show, TOKENS_AT_ONCE),
        ]

    def of_training(self) -> list[Check]:
        """Run C1 to C4 on the evaluation by test-time training."""
        name = f"TTT {self.settings.ttt_method}"
        lora = self.settings.ttt_method == "lora"
        units = self._documents() if lora else self._whole_text()
        baseline = Baseline(self._adapt, self.tokens)
        show = self._progress(name, "C3", MOST_TRIALS)
        return [
            *self.of_method(name, baseline, units),
            self.normalised_after_update(name),
            score_before_update(name, baseline, units, show),
        ]

    def of_method(self, name: str, baseline: Baseline, units: np.ndarray) -> list[Check]:
        """Run C1 and C4 on a method."""
        vocab_size, bos_id = self.settings.vocab_size, self.settings.bos_id
        show = self._progress(name, "C1", len(self.cuts))
        return [
            causality(name, baseline, self.cuts, vocab_size, bos_id, show),
            one_pass(name, baseline, units, self.subject.inputs.byte_table),
        ]

    def normalised_after_update(self, name: str) -> Check:
        """Run C2 with weights that have just been updated."""
        found: list[Check] = []
        at_once = 1 if self.settings.ttt_method == "lora" else TOKENS_AT_ONCE
        vocab_size, contexts = self.settings.vocab_size, self.contexts
        show = self._progress(name, "C2", vocab_size)

        class Summing:
            def __init__(self, learner: Learner) -> None:
                self.learner, self.tensors, self.score = learner, learner.tensors, learner.score

            def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
                self.learner.update(tokens, positions, lr_scale)
                if not found:
                    check = normalisation(name, self.score, contexts, vocab_size, show, at_once)
                    found.append(check)

        self._adapt(TokenArray(self.tokens), lambda positions, nats: None, Summing)
        return found[0] if found else Check("C2 normalised", name, False, "nothing was learned")

    def _score(self, text: Tokens, record: Record, watch: Watch) -> Score:
        stride = self.settings.eval_stride or self.settings.eval_seq_len
        scoring = Scoring(self.subject.world, record=record)
        return self.subject.score(self._split(text), stride, scoring)

    def _adapt(self, text: Tokens, record: Record, watch: Watch) -> Score:
        scoring = Scoring(self.subject.world, record=record)
        return self.subject.adapt(self._split(text), scoring, watch)

    def _split(self, text: Tokens) -> Split:
        return replace(self.subject.split, stream=text)

    def _whole_text(self) -> np.ndarray:
        """Return the units (targets + 1,) of a method that updates on the whole text."""
        return np.zeros(self.targets + 1, np.int64)

    def _documents(self) -> np.ndarray:
        """Return the units (targets + 1,) of a method that updates on each document separately."""
        units = self._whole_text()
        documents = find_documents(TokenArray(self.tokens), self.targets, self.settings.bos_id)
        for number, document in enumerate(documents):
            units[document.first + 1 : document.last + 1] = number
        return units

    def _progress(self, name: str, rule: str, parts: int) -> Callable[[int], None]:
        return lambda done: self.progress.phase(f"auditing {name}, {rule}: {done / parts:.0%}")
