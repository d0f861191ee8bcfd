"""The checks that run an evaluation many times, on a short text: C1 to C4.

The text is the first few windows of the split, chunks have two windows, and documents begin in
every window and a half: the same code with smaller numbers.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from errors import InputError
from evaluation.audit.case import Case, Method
from evaluation.audit.causality import causality, choose_cuts
from evaluation.audit.normalisation import normalised
from evaluation.audit.observing import Seen, TokenArray
from evaluation.audit.one_pass import one_pass
from evaluation.audit.prefix import starts_of_learning
from evaluation.audit.random_text import random_text, unforeseen
from evaluation.audit.runs import Baseline, Check
from evaluation.audit.score_first import MOST_TRIALS, score_before_update
from evaluation.ttt.documents import find_documents

CHUNK_WINDOWS = 2
WINDOWS = 6.5  # of text: three chunks that are learned, and a part that is only scored
DOCUMENTS = 2  # at once, of adapters: several batches of them
DOCUMENT_WINDOWS = 1.5  # of a document, at most
ROWS = 4  # windows in which C2 sums probabilities, on a GPU
FEWEST = 256  # tokens of such windows, without a GPU
MOST_DRAWN = 1000  # random targets whose ranks are taken
TOKENS_AT_ONCE = 16  # whose probabilities C2 takes in one call
CHOICES_AT_ONCE = 128  # the same of rows with adapters, whose states are computed once for all
MOST_LOGITS = 1 << 27  # of these choices together, because plain PyTorch keeps them in memory


def check_length(case: Case) -> None:
    """Refuse a split that is too short for a trial. Raises InputError."""
    tokens, length = len(case.inputs.validation), case.settings.eval_seq_len
    needed = 2 * CHUNK_WINDOWS * length + 2
    if tokens < needed:
        raise InputError(
            f"a split of {tokens} tokens is too short to audit windows of {length}: it needs "
            f"{needed}; choose a smaller --seq-len"
        )


def trial(case: Case) -> Iterator[Check]:
    """Run C1 to C4 on each method; plain windows are those of which sliding ones are a part."""
    sliding = any(method.name == "sliding" for method in case.methods)
    for method in case.methods:
        if method.learns:
            yield from Trial(case, method).of_training()
        elif method.name != "plain" or not sliding:
            yield from Trial(case, method).of_windows()


def choices_at_once(scored: int, vocab_size: int) -> int:
    """Return how many tokens C2 tries in one call as targets of rows of ``scored`` places."""
    return max(1, min(CHOICES_AT_ONCE, MOST_LOGITS // (DOCUMENTS * scored * vocab_size)))


class Trial:
    """The checks of one method.

    Args:
        case: what is audited; its split is long enough.
        method: of it.
    """

    def __init__(self, case: Case, method: Method) -> None:
        self.case, self.method, self.settings = case, method, case.settings
        self.length = length = case.settings.eval_seq_len
        stream, chunk = case.inputs.validation, CHUNK_WINDOWS * length
        self.lora = method.learns and case.settings.ttt_method != "sgd"
        self.both = method.learns and case.settings.ttt_method == "both"
        self.changes = {"ttt_chunk_tokens": chunk, "ttt_lora_documents": DOCUMENTS}
        self.tokens = stream.read(0, min(len(stream), int(WINDOWS * length) + 1)).copy()
        self.targets = len(self.tokens) - 1
        if self.lora:
            self.tokens[:: int(DOCUMENT_WINDOWS * length)] = case.settings.bos_id
        self.cuts = choose_cuts(self.tokens, case.settings.bos_id, chunk, case.effort.cuts)

    def of_windows(self) -> Iterator[Check]:
        """Run C1, C2 and C4 on an evaluation by windows."""
        yield from self._common(Baseline(self._score, self.tokens), None, self._whole_text())
        yield self.normalised()

    def of_training(self) -> Iterator[Check]:
        """Run C1 to C4 on an evaluation by test-time training."""
        units = self._documents() if self.lora else self._whole_text()
        baseline = Baseline(self._adapt, self.tokens)
        one_by_one = Baseline(self._adapt_one_by_one, self.tokens) if self.lora else None
        yield from self._common(baseline, one_by_one, units)
        yield self.normalised_after_update()
        yield self.unforeseen()
        check = score_before_update(
            self.method.name, baseline, units, self._phases(), self._progress("C3", MOST_TRIALS)
        )
        if self.lora and check.passed and len(np.unique(units)) <= DOCUMENTS:
            found = "one batch of documents: whether it is forgotten was not tried"
            check = Check(check.name, check.subject, None, found)
        yield check

    def _common(
        self, baseline: Baseline, one_by_one: Baseline | None, units: np.ndarray
    ) -> Iterable[Check]:
        """Run C1 and C4."""
        settings, name = self.settings, self.method.name
        table = self.case.inputs.byte_table
        show = self._progress("C1", len(self.cuts))
        vocab_size = len(table.base)
        yield causality(name, baseline, self.cuts, vocab_size, settings.bos_id, show, one_by_one)
        yield one_pass(name, baseline, units, table)

    def normalised(self) -> Check:
        """Run C2 on windows of the run's length, all of their places and the last ones."""
        contexts, name = self._contexts(), self.method.name
        shapes = dict.fromkeys((self.length, self.method.stride))
        self.case.show(f"auditing {name}, C2")
        ask = self.case.entrant.sums
        return normalised(name, *(ask(contexts, scored, TOKENS_AT_ONCE) for scored in shapes))

    def normalised_after_update(self) -> Check:
        """Run C2 with weights that have just been updated."""
        show = self.case.fraction_of(f"auditing {self.method.name}, C2")
        scored, at_once = self.method.stride, TOKENS_AT_ONCE
        if self.lora:
            scored = self.settings.ttt_lora_chunk
            at_once = choices_at_once(scored, len(self.case.inputs.byte_table.base))
        words = {"contexts": self._contexts(), "scored": scored, "at_once": at_once}
        seen = self.case.entrant.adapt(self.tokens, self.changes, show=show, **words)
        return normalised(self.method.name, *([seen.sums] if seen.sums.size else []))

    def unforeseen(self) -> Check:
        """Learn a random text, and rank its tokens among all."""
        table, bos = self.case.inputs.byte_table, self.settings.bos_id
        draw = self.case.draw(f"random text {self.method.name}")
        text = random_text(self.tokens, len(table.base), bos, draw)
        drawn = np.flatnonzero(text[1:] != bos) + 1
        count = min(self.case.places, MOST_DRAWN, len(drawn))
        places = np.sort(draw.choice(drawn, count, replace=False))
        starts = starts_of_learning(self.case, self.method, text, places)
        show = self.case.fraction_of(f"auditing {self.method.name}, C1 on random text")
        adapt = self.case.entrant.adapt
        seen = adapt(text, self.changes, show=show, places=places, starts=starts)
        return unforeseen(self.method.name, text[seen.places], seen.again, bos)

    def _contexts(self) -> np.ndarray:
        """Return windows (R, T) at random places of the split."""
        on_gpu = self.case.entrant.device == "cuda"
        rows = DOCUMENTS if self.lora else ROWS if on_gpu else max(1, FEWEST // self.length)
        stream = self.case.inputs.validation
        draw = self.case.draw(f"contexts {self.method.name}")
        starts = draw.integers(0, len(stream) - self.length, rows).tolist()
        return np.stack([stream.read(start, self.length) for start in starts]).astype(np.int32)

    def _score(self, tokens: np.ndarray, poison: int) -> Seen:
        return self.case.entrant.score(tokens, self.method.stride)

    def _adapt(self, tokens: np.ndarray, poison: int) -> Seen:
        return self.case.entrant.adapt(tokens, self.changes, poison)

    def _adapt_one_by_one(self, tokens: np.ndarray, poison: int) -> Seen:
        return self.case.entrant.adapt(tokens, self.changes | {"ttt_lora_documents": 1}, poison)

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

    def _phases(self) -> np.ndarray:
        """Return the phases (targets + 1,) of which each learns from all before it."""
        chosen = self._whole_text()
        if self.both:
            chunk = self.changes["ttt_chunk_tokens"]
            documents = find_documents(TokenArray(self.tokens), self.targets, self.settings.bos_id)
            for document in documents:
                chosen[document.first + 1 : document.last + 1] = document.first // chunk
        return chosen

    def _progress(self, rule: str, parts: int) -> Callable[[int], None]:
        show = self.case.fraction_of(f"auditing {self.method.name}, {rule}")
        return lambda done: show(done / parts)
