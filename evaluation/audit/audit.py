"""The audit of an artifact's scores: every check, on the entrant's code and weights, as a table."""

import time
from collections.abc import Iterable
from math import ceil
from pathlib import Path

from rich.markup import escape
from rich.table import Table

import terminal
from data.inputs import open_scored
from errors import printable
from evaluation.audit.accounting import read_summary
from evaluation.audit.case import Case, Effort
from evaluation.audit.checks import CHECKS, UNSEEN
from evaluation.audit.entrant import Entrant
from evaluation.audit.runs import VERDICTS, Check
from evaluation.audit.trial import check_length
from evaluation.subject import method_of, sources
from runtime.progress import Progress
from settings.options import Given

COLOURS = {True: "green", False: "red", None: "default"}
SAID = 1.0  # seconds that a step takes at least to be said


def audit(artifact: Path, given: Given, code: Path, effort: Effort) -> int:
    """Run all checks and print them; return 1 if one fails, else 0.

    Args:
        artifact: the file; if it lies in its run's folder, the run's scores are checked.
        given: settings by name, as for `evaluation.subject.Subject.open`.
        code: the entrant's, a project's folder or its packed file: it scores, and its bytes count.
        effort: how much is tried.

    Raises:
        InputError: artifact, data or code are missing or do not fit together, or the split is too
            short to audit.
    """
    entrant = Entrant.start(code)
    try:
        case = opened(artifact, given, code, entrant, effort)
        print(printable(sources(artifact, case.settings, case.inputs)))
        print(f"steps: {', '.join(CHECKS)}", flush=True)
        with Progress(None, None) as progress:

            def say(line: str) -> None:
                progress.ended()
                progress.line(line)

            case.show, case.say = progress.phase, say
            checks = run(case, CHECKS)
    finally:
        entrant.close()
    console = terminal.console(markup=True)
    terminal.show(table(checks, case), console)
    for line in unseen(case):
        terminal.show(escape(line), console)
    return int(any(check.passed is False for check in checks))


def opened(artifact: Path, given: Given, code: Path, entrant: Entrant, effort: Effort) -> Case:
    """Return what is audited, with its network ready in the entrant's process."""
    settings = method_of(artifact, given)
    inputs = open_scored(settings.data, settings.tokenizer, None, None)
    network = {"vocab_size": inputs.vocab_size, "bos_id": inputs.bos_id}
    settings = settings.model_copy(update=network)
    summary = read_summary(artifact)
    case = Case(artifact, settings, inputs, summary, code, entrant, effort)
    check_length(case)
    entrant.open(artifact, settings, inputs.byte_table)
    return case


def run(case: Case, names: Iterable[str]) -> list[Check]:
    """Run checks by name, in the order of `CHECKS`, and say each verdict as soon as it is known."""
    found: list[Check] = []
    for name, make in CHECKS.items():
        if name in names:
            begin = time.monotonic()
            for check in make(case):
                found.append(check)
                case.say(printable(check.line()))
            if (took := time.monotonic() - begin) >= SAID:
                case.say(f"{name}: {took:.0f} s")
    return found


def table(checks: list[Check], case: Case) -> Table:
    """Return the checks, a row each."""
    title = escape(printable(f"{case.artifact} ({case.code.name}, {case.entrant.backend})"))
    made = Table("check", "of", "", "found", title=title)
    for check in checks:
        found = escape(printable(check.found))
        verdict = f"[{COLOURS[check.passed]}]{VERDICTS[check.passed]}[/]"
        made.add_row(check.name, escape(printable(check.subject)), verdict, found)
    return made


def unseen(case: Case) -> list[str]:
    """Return lines that say what no check sees."""
    places = case.places
    said = [line.format(places=places, rare=ceil(places / 3)) for line in UNSEEN]
    return [f"No check sees: {line}." for line in said] + [f"--audit-seed {case.effort.seed}"]
