"""The audit of an artifact's scores: every check, on the code and weights that score, as a table.

Checks that run the evaluation many times do so on the split's first few windows and with chunks of
two windows: the same code with smaller numbers.
"""

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.tokenizer import Tokenizer, find_tokenizer
from errors import InputError
from evaluation.audit import accounting
from evaluation.audit.checks import (
    Check,
    Clean,
    Run,
    Text,
    before_update,
    causality,
    normalised,
    one_pass,
)
from evaluation.score import Record, Score, Tokens
from evaluation.subject import Subject
from evaluation.ttt.documents import find_documents
from evaluation.ttt.methods import Watch
from evaluation.ttt.weights import Learner
from runtime.progress import Progress

CHUNK_WINDOWS = 2
WINDOWS = 6.5  # of text: two chunks that are learned, a third, and a part
ROWS, ROW_TOKENS = 4, 64  # positions at which C2 sums probabilities
TOKENS_AT_ONCE = 16  # whose probabilities C2 takes in one call, not of rows with adapters
MARKS = {True: "[green]holds[/]", False: "[red]BROKEN[/]", None: "unknown"}


def audit(subject: Subject, cuts: int) -> int:
    """Run all checks and print them; 1 if one fails, else 0.

    Args:
        subject: an artifact and the data to audit it on.
        cuts: at how many places C1 changes the text.

    Raises:
        InputError: several ranks, or a split too short to audit.
    """
    if subject.world.size > 1:
        raise InputError("an audit runs in one process; start it without torchrun")
    with Progress(None, None) as progress:
        checks = [*account(subject, progress), *Trial(subject, cuts, progress).checks()]
        progress.phase("audited")
    Console().print(table(checks, subject))
    return int(any(check.passed is False for check in checks))


def table(checks: list[Check], subject: Subject) -> Table:
    """The checks, a row each."""
    made = Table("check", "of", "", "found", title=f"{subject.artifact} ({subject.backend})")
    for check in checks:
        made.add_row(check.name, check.subject, MARKS[check.passed], check.found)
    return made


def account(subject: Subject, progress: Progress) -> list[Check]:
    """Bytes of the text, bytes of the artifact, both clocks."""
    settings, inputs = subject.settings, subject.inputs
    assert settings.data is not None
    tokenizer = Tokenizer(find_tokenizer(settings.data, settings.tokenizer))

    def tell(done: int, documents: int) -> None:
        progress.phase(f"bytes of text: {done / documents:.0%}")

    summary = accounting.read_summary(subject.artifact)
    most = settings.val_max_tokens
    return [
        accounting.bytes_of_text(tokenizer, inputs.byte_table, inputs.validation, tell),
        accounting.whole_split(summary, inputs.validation, inputs.byte_table, most),
        accounting.size(subject.artifact, summary, settings.size_limit),
        *accounting.clocks(summary),
    ]


class Trial:
    """The checks that run the evaluation.

    Args:
        subject: what is audited.
        cuts: at how many places C1 changes the text.
        progress: the line that a person sees.

    Raises:
        InputError: the split is too short.
    """

    def __init__(self, subject: Subject, cuts: int, progress: Progress) -> None:
        length = subject.settings.eval_seq_len
        chunk, split = CHUNK_WINDOWS * length, subject.inputs.validation
        if len(split) <= 2 * chunk + 1:
            raise InputError(
                f"a split of {len(split)} tokens is too short to audit windows of {length}: it "
                f"needs {2 * chunk + 2}; choose a smaller --seq-len"
            )
        changes = {"ttt_chunk_tokens": chunk, "ttt_lora_documents": ROWS, "val_max_tokens": 0}
        settings = subject.settings.model_copy(update=changes)
        self.subject, self.progress = replace(subject, settings=settings), progress
        self.tokens = split.read(0, min(len(split), int(WINDOWS * length) + 1)).copy()
        self.targets = len(self.tokens) - 1
        self.cuts = choose_cuts(self.tokens, settings.bos_id, chunk, cuts)
        rows = min(ROW_TOKENS, length)
        contexts = torch.from_numpy(self.tokens[: ROWS * rows].astype(np.int32))
        self.contexts = contexts.view(ROWS, rows).to(subject.world.device)

    def checks(self) -> list[Check]:
        """All of them, of the windows and of the test-time training."""
        settings, subject = self.subject.settings, self.subject
        windows = "sliding" if settings.eval_stride else "plain"
        adapting = f"TTT {settings.ttt_method}"
        tell = self._tell(windows, "C2", settings.vocab_size)
        units = np.zeros(self.targets + 1, np.int64)
        found = [
            *self.of_method(windows, self._score, units),
            normalised(
                windows, subject.score_fn, self.contexts, settings.vocab_size, tell, TOKENS_AT_ONCE
            ),
        ]
        if settings.ttt_method == "lora":
            for number, document in enumerate(self._documents()):
                units[document.first + 1 : document.last + 1] = number
        clean = Clean(self._adapt, self.tokens)
        found += self.of_method(adapting, self._adapt, units, clean)
        found.append(self.normalised_when_adapted(adapting))
        tell = self._tell(adapting, "C3", 8)
        found.append(before_update(adapting, clean, units, tell))
        return sorted(found, key=lambda check: (check.subject, check.name))

    def of_method(
        self, name: str, run: Run, units: np.ndarray, clean: Clean | None = None
    ) -> list[Check]:
        """C1 and C4 of a method."""
        settings, clean = self.subject.settings, clean or Clean(run, self.tokens)
        tell = self._tell(name, "C1", len(self.cuts))
        return [
            causality(name, clean, self.cuts, settings.vocab_size, settings.bos_id, tell),
            one_pass(name, clean, units, self.subject.inputs.byte_table),
        ]

    def normalised_when_adapted(self, name: str) -> Check:
        """C2 with weights that have just learned."""
        found: list[Check] = []
        vocab_size, model = self.subject.settings.vocab_size, self.subject.model
        at_once = 1 if self.subject.settings.ttt_method == "lora" else TOKENS_AT_ONCE
        tell = self._tell(name, "C2", vocab_size)

        class Summing:
            def __init__(self, learner: Learner) -> None:
                self.learner, self.tensors = learner, learner.tensors

            def learn(self, tokens: Tensor, places: Tensor, rate: float) -> None:
                self.learner.learn(tokens, places, rate)
                if not found:
                    found.append(normalised(name, model.score, contexts, vocab_size, tell, at_once))

        contexts = self.contexts
        self._adapt(Text(self.tokens), lambda places, nats: None, Summing)
        return found[0] if found else Check("C2 normalised", name, False, "nothing was learned")

    def _score(self, text: Tokens, record: Record, watch: Watch) -> Score:
        settings = self.subject.settings
        stride = settings.eval_stride or settings.eval_seq_len
        return self.subject.score(text, stride, record=record)

    def _adapt(self, text: Tokens, record: Record, watch: Watch) -> Score:
        return self.subject.adapt(text, record=record, watch=watch)

    def _documents(self):
        return find_documents(Text(self.tokens), self.targets, self.subject.settings.bos_id)

    def _tell(self, name: str, rule: str, parts: int):
        return lambda done: self.progress.phase(f"auditing {name}, {rule}: {done / parts:.0%}")


def choose_cuts(tokens: np.ndarray, bos_id: int, chunk: int, count: int) -> list[int]:
    """Places behind which C1 changes the text, in order: about documents' and chunks' ends, and
    random ones, which are at least half."""
    last = len(tokens) - 2
    edges = np.concatenate((np.flatnonzero(tokens == bos_id), np.arange(chunk, last, chunk)))
    near = np.unique(edges[:, None] + np.array([-1, 0, 1]))
    near = near[(near >= 0) & (near <= last)]
    draw = np.random.default_rng(0)
    chosen = draw.permutation(near)[: count // 2]
    others = draw.permutation(np.setdiff1d(np.arange(last + 1), chosen))
    return np.sort(np.concatenate((chosen, others[: count - len(chosen)]))).tolist()
