"""All checks, in the order in which they run, and what no check sees."""

from collections.abc import Callable, Iterable, Iterator

from data.vocabulary import read_tokenizer
from evaluation.audit import accounting
from evaluation.audit.case import Case
from evaluation.audit.prefix import strict_prefix, watched
from evaluation.audit.recorded import recorded
from evaluation.audit.runs import Check
from evaluation.audit.trial import trial

# What the files of a run cannot show, printed below the table.
UNSEEN = (
    "trained on the validation split, or tuned on it",
    "the best of several seeds",
    "a place that no check tried: {places:,} of each method's targets were, so a cheat at one "
    "place in {rare:,} is missed with a probability of 5 %",
)


def bytes_of_text(case: Case) -> Iterator[Check]:
    """Compare the counted bytes with those of the decoded text."""

    def show(done: int, documents: int) -> None:
        case.show(f"bytes of text: {done / documents:.0%}")

    split, tokenizer = case.split, read_tokenizer(case.inputs.tokenizer)
    yield accounting.bytes_of_text(tokenizer, split.byte_table, split.stream, show)


def whole_split(case: Case) -> Iterator[Check]:
    """Compare the run's counts with the split's."""
    yield accounting.whole_split(case.summary, case.split)


def size(case: Case) -> Iterator[Check]:
    """Compare code and artifact with the limit."""
    yield accounting.size(case.artifact, case.summary, case.code, case.settings)


def clocks(case: Case) -> Iterable[Check]:
    """Compare the run's seconds with their limits."""
    return accounting.clocks(case.summary)


# `strict_prefix` is the first to ask the entrant's process, which then knows none of the text.
CHECKS: dict[str, Callable[[Case], Iterable[Check]]] = {
    "bytes of text": bytes_of_text,
    "whole split": whole_split,
    "size": size,
    "clocks": clocks,
    "strict prefix": strict_prefix,
    "recorded": recorded,
    "watched": watched,
    "trial": trial,
}
