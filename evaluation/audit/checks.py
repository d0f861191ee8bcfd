"""All checks, in the order in which they run, and what no check sees."""

from collections.abc import Callable, Iterable, Iterator

from pydantic import ValidationError

from data.vocabulary import read_tokenizer
from errors import InputError
from evaluation.audit import accounting, conduct, source
from evaluation.audit.case import Case
from evaluation.audit.entrant import WORKER
from evaluation.audit.prefix import strict_prefix, watched
from evaluation.audit.recorded import recorded
from evaluation.audit.runs import Check
from evaluation.audit.shuffled import validation_unseen
from evaluation.audit.trial import trial
from runtime.records import SETTINGS, read_settings
from settings import Settings
from settings.load import describe

# What the files of a run cannot show, printed below the table.
UNSEEN = (
    "trained on the validation split, or tuned on it",
    "the best of several seeds",
    "code that remembers only the first text of its process",
    "seconds other than those that the run claims",
    "data that compiled code opens, or that lies among files of Python, caches or the system",
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
    """Compare code and artifact with the judge's limit; the code carries the run's settings."""
    limit = case.settings.size_limit
    yield accounting.size(case.artifact, case.summary, case.code, settings_of(case), limit)


def clocks(case: Case) -> Iterable[Check]:
    """Compare the run's seconds with their limits."""
    return accounting.clocks(case.summary)


def text(case: Case) -> Iterator[Check]:
    """Compare the text with its source, and its files with those that the run scored."""
    yield source.source(case.inputs)
    yield source.data(case.summary, case.inputs)


def code(case: Case) -> Iterator[Check]:
    """Compare the code that ran with the entrant's."""
    yield conduct.code(case.summary, case.code, settings_of(case))


def conduct_of_run(case: Case) -> Iterator[Check]:
    """Check what the run's process opened, connected to and started."""
    yield conduct.conduct("run", case.summary.observed if case.summary else None)


def conduct_of_scoring(case: Case) -> Iterator[Check]:
    """Check what the entrant's process did while it scored, but for a packed file's unpacking."""
    findings = case.entrant.seen()
    own = (f" in {WORKER}:", f" in {case.code.resolve()}:")
    if "text" in findings:
        findings["text"] = [each for each in findings["text"] if not any(o in each for o in own)]
    yield conduct.conduct("scoring", findings)


def unseen_validation(case: Case) -> Iterator[Check]:
    """Train with the validation tokens in two orders."""
    case.show("training two times")
    yield validation_unseen(case.code)


def settings_of(case: Case) -> Settings:
    """Return the settings of the run in whose folder the artifact lies, else the judge's.

    The data are the judge's, because the run's may lie elsewhere.
    """
    if not (case.folder / SETTINGS).is_file():
        return case.settings
    try:
        found = Settings.model_validate(read_settings(case.folder))
        return found.model_copy(update={"data": case.settings.data})
    except ValidationError as error:
        raise InputError(f"{case.folder / SETTINGS}: {describe(error)}") from None


# `strict_prefix` is the first to ask the entrant's process, which then knows none of the text.
CHECKS: dict[str, Callable[[Case], Iterable[Check]]] = {
    "bytes of text": bytes_of_text,
    "whole split": whole_split,
    "text": text,
    "code": code,
    "size": size,
    "clocks": clocks,
    "conduct of the run": conduct_of_run,
    "strict prefix": strict_prefix,
    "recorded": recorded,
    "watched": watched,
    "trial": trial,
    "conduct of scoring": conduct_of_scoring,
    "unseen validation": unseen_validation,
}
