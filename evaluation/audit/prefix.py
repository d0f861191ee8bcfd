"""C1, strict prefix: scores at random places are those of the tokens before them, and no others.

The entrant's network is given the tokens before a place, and nothing of what follows. It returns
the nats of every token of the vocabulary, so no target is known where they are computed. The judge
divides the probabilities by their sum, in fp64, and compares the target's with the run's record.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from evaluation.audit.case import Case, Method
from evaluation.audit.observing import Seen, TokenArray, padded
from evaluation.audit.runs import Check
from evaluation.ttt.documents import DocumentPlan, find_documents
from evaluation.ttt.phases import hints_of, phases
from evaluation.windows import Windows

RULE = "C1 strict prefix"
# Nats by which a score may differ: of kernels that sum in another order, by the data type.
ALLOWED = {"float32": 1e-4}
ALLOWED_ELSE = 1e-3
ON_AVERAGE = 1e-4


def strict_prefix(case: Case) -> Iterator[Check]:
    """Score random places of each method again, those by windows in a process that knows no text.

    They come first of all questions that the entrant's process is asked.
    """
    by_windows = [method for method in case.methods if not method.learns]
    again = [(method, *windows_again(case, method)) for method in by_windows]
    for method, places, nats in again:
        yield compared(case, method, places, nats, case.audited(method)[places - 1])
    yield from (of_learning(case, method) for method in case.methods if method.learns)


def of_learning(case: Case, method: Method) -> Check:
    """Compare what test-time training scored with what it scored again while it learned."""
    seen, asked = learned(case, method), chosen(case, method)
    found = np.isin(asked, seen.places)
    if not found.all():
        said = f"{(~found).sum()} of {len(asked)} places were never scored"
        return Check(RULE, method.name, False, said)
    again = tilted(case, method, seen.places, seen.again)
    nats = of_targets(case, seen.places, again)
    scored = seen.by_position(case.targets(method))[seen.places]
    return compared(case, method, seen.places, nats, scored)


def compared(
    case: Case, method: Method, places: np.ndarray, nats: np.ndarray, scored: np.ndarray
) -> Check:
    """Compare nats (P,) of the strict prefix with what was scored at places (P,)."""
    allowed = ALLOWED.get(case.entrant.dtype, ALLOWED_ELSE)
    difference = scored.astype(np.float64) - nats
    off = ~(np.abs(difference) <= allowed)  # true of NaN
    of = f"{len(places):,} of {case.targets(method):,} targets"
    if off.any():
        place = int(places[np.argmax(np.where(off, np.nan_to_num(np.abs(difference), nan=9), 0))])
        index = int(np.flatnonzero(places == place)[0])
        found = f"{off.sum():,} of {of} differ; target {place}: scored {scored[index]:.4f}, "
        found += f"{nats[index]:.4f} by the tokens before it"
        return Check(RULE, method.name, False, found)
    mean = float(difference.mean())
    if abs(mean) > ON_AVERAGE:
        return Check(RULE, method.name, False, f"{of} differ by {mean:.1e} nats on average")
    worst = float(np.abs(difference).max())
    return Check(RULE, method.name, True, f"{of}, off by {worst:.1e} of {allowed:.0e} nats at most")


def chosen(case: Case, method: Method) -> np.ndarray:
    """Return random targets of a method in order, each once."""
    targets = case.targets(method)
    count = min(case.places, targets)
    draw = case.draw(f"places {method.name}")
    return np.sort(draw.choice(targets, count, replace=False)) + 1


def windows_again(case: Case, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Return places (P,), and the nats (P,) of their targets by what their windows hold before."""
    windows, plan = case.windows(method)
    places = chosen(case, method)
    starts = starts_of_windows(windows, places)
    size, stream = min(plan.batch, len(windows)), case.inputs.validation
    found = []
    for first in range(0, len(places), size):
        case.show(f"scoring {method.name} again: {first / len(places):.0%}")
        some = slice(first, first + size)
        pairs = zip(places[some].tolist(), starts[some].tolist(), strict=True)
        contexts = [stream.read(start, place - start) for place, start in pairs]
        shape = (size, plan.seq_len)
        again = case.entrant.again(*padded(contexts, list(range(len(contexts))), shape))
        found.append(of_targets(case, places[some], again))
    return places, np.concatenate(found)


def of_targets(case: Case, places: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return the nats (P,) fp64 of the targets at places, from those of all tokens (P, V).

    Probabilities are divided by their sum, so that no other than a distribution can agree.
    """
    logits = -again.astype(np.float64)
    highest = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(1)) + highest[:, 0]
    stream = case.inputs.validation
    targets = np.array([stream.read(place, 1)[0] for place in places.tolist()], np.int64)
    return total - logits[np.arange(len(places)), targets]


def tilted(case: Case, method: Method, places: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return nats (P, V) tilted as the method says, by hints that are counted here."""
    if not case.settings.ttt_tilt:
        return again
    stream, targets = case.inputs.validation, case.targets(method)
    documents = find_documents(stream, targets, case.settings.bos_id)
    moved = again.astype(np.float64)
    for some in phases(documents, case.settings.ttt_chunk_tokens).values():
        inside = np.flatnonzero((places > some[0].first) & (places <= some[-1].last))
        hints = hints_of(some, stream, case.settings, torch.device("cpu"))
        if hints is None or not len(inside):
            continue
        tokens = hints.at(torch.from_numpy(places[inside])).numpy()
        rows, tokens = inside[tokens >= 0], tokens[tokens >= 0]
        probability = np.exp(-moved[rows, tokens]) / np.exp(-moved[rows]).sum(1)
        moved[rows, tokens] -= case.settings.ttt_tilt * (1 - probability)
    return moved


def starts_of_windows(windows: Windows, places: np.ndarray) -> np.ndarray:
    """Return the first token of the window that scores each place."""
    indices = np.array([windows.begun_before(place) - 1 for place in places.tolist()], np.int64)
    return windows.starts(indices)


def learned(case: Case, method: Method) -> Seen:
    """Return what is seen of the whole run of test-time training, which happens once."""
    if case.learned is None:
        places, starts = places_of_learning(case, method)
        show, tokens = case.fraction_of(f"scoring {method.name}, watched"), case.tokens(method)
        adapt = case.entrant.adapt
        case.learned = adapt(tokens, {}, show=show, places=places, starts=starts)
    return case.learned


def places_of_learning(case: Case, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Return random places (P,) of test-time training, and the first token of their contexts."""
    places = chosen(case, method)
    return places, starts_of_learning(case, method, case.tokens(method), places)


def starts_of_learning(
    case: Case, method: Method, tokens: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the first token of the context of each place (P,) in a text (N,) that is learned."""
    settings, targets = case.settings, len(tokens) - 1
    if settings.ttt_method == "sgd":
        return starts_of_windows(Windows(targets, settings.eval_seq_len, method.stride), places)
    documents = find_documents(TokenArray(tokens), targets, settings.bos_id)
    firsts = np.array([document.first for document in documents])
    first = firsts[np.searchsorted(firsts, places, "left") - 1]
    return first + DocumentPlan.of(settings).start(places - first)


def watched(case: Case) -> Iterable[Check]:
    """C3 on the whole run: what was learned, and whether it had been scored before."""
    for method in case.methods:
        if method.learns:
            seen = learned(case, method)
            found = f"{seen.updates} updates, {seen.unscored} tokens learned before they were "
            found += f"scored, {seen.foreign} that are not the text's"
            passed = None if not seen.updates else not (seen.unscored or seen.foreign)
            yield Check("C3 whole run", method.name, passed, found)
