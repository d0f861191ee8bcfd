"""What makes a score lawful, each tried on the code that scores.

A run is anything that scores a split and records every score as it becomes final. The checks see
nothing else of it, so they hold for any method, and for one that cheats.

C1  causal: changing what comes after a token moves no score up to it
C2  normalised: the probabilities of all tokens sum to one
C3  score before update: a score is final before any weight is used that has seen its token
C4  one pass: each target once, in order, and the sums are those of the recorded scores
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.tokenizer import ByteTable
from evaluation.score import Record, Score, ScoreFunction, Tokens
from evaluation.ttt.methods import Watch
from evaluation.ttt.weights import Learner

Run = Callable[[Tokens, Record, Watch], Score]

STILL = 1e-6  # nats by which a score may move where two equal runs agree bit for bit
NOISES = 4  # times that which two equal runs differ by
SUM_ERROR = 1e-4  # of probabilities


@dataclass(frozen=True)
class Check:
    """The verdict of one check.

    Attributes:
        name: of the rule.
        subject: what was checked.
        passed: None where there was nothing to check.
        found: one line.
    """

    name: str
    subject: str
    passed: bool | None
    found: str


class Text:
    """Tokens in memory, read as a split is."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count)."""
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens [{start}, {start + count}) of a text of {len(self)}")
        return self.tokens[start : start + count]


class Ledger:
    """Every score in the order in which it became final."""

    def __init__(self) -> None:
        self._places: list[np.ndarray] = [np.empty(0, np.int64)]
        self._nats: list[np.ndarray] = [np.empty(0)]

    def __call__(self, places: Tensor, nats: Tensor) -> None:
        """Record scores, as `evaluation.score.Record`."""
        self._places.append(places.cpu().numpy().copy())
        self._nats.append(nats.double().cpu().numpy().copy())

    @property
    def places(self) -> np.ndarray:
        """(N,) int64 in order."""
        return np.concatenate(self._places)

    @property
    def nats(self) -> np.ndarray:
        """(N,) fp64 in order."""
        return np.concatenate(self._nats)

    def by_place(self, targets: int) -> np.ndarray:
        """(targets + 1,) fp64: the last score of each place, infinite where there is none."""
        scores = np.full(targets + 1, np.inf)
        places, known = self.places, self.nats
        inside = (places >= 0) & (places <= targets)
        scores[places[inside]] = known[inside]
        return scores


def unwatched(learner: Learner) -> Learner:
    """What is put between a method and its learner where nobody looks."""
    return learner


class Clean:
    """Two runs over the text as it is: what to compare with, and how far equal runs differ."""

    def __init__(self, run: Run, tokens: np.ndarray) -> None:
        self.run, self.tokens, self.targets = run, tokens, len(tokens) - 1
        self.ledger = Ledger()
        self.score = run(Text(tokens), self.ledger, unwatched)
        self.nats = self.ledger.by_place(self.targets)
        self.allowed = max(STILL, NOISES * largest(self.moved(self.scores(tokens))))

    def scores(self, tokens: np.ndarray, watch: Watch = unwatched) -> np.ndarray:
        """(targets + 1,) nats by place of a run over other tokens."""
        ledger = Ledger()
        self.run(Text(tokens), ledger, watch)
        return ledger.by_place(self.targets)

    def moved(self, nats: np.ndarray) -> np.ndarray:
        """(targets + 1,) by how far scores differ from the clean ones; 0 where those are none."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(self.nats), np.abs(nats - self.nats), 0.0)


def largest(amounts: np.ndarray) -> float:
    """The largest finite one, 0 of none."""
    finite = amounts[np.isfinite(amounts)]
    return float(finite.max(initial=0.0))


def causality(
    name: str,
    clean: Clean,
    cuts: Sequence[int],
    vocab_size: int,
    bos_id: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Check:
    """C1. Change every token after each cut; every other time a document begins there.

    Args:
        name: of the method.
        clean: its runs over the text as it is.
        cuts: places after which tokens change, each under the last.
        vocab_size: of the tokens.
        bos_id: that begins a document.
        tell: how many cuts are done.
    """
    draw = np.random.default_rng(0)
    farthest = 0.0
    for done, cut in enumerate(cuts, start=1):
        tokens = changed_after(clean.tokens, cut, vocab_size, draw)
        if done % 2 and clean.tokens[cut + 1] != bos_id:
            tokens[cut + 1] = bos_id
        moved = clean.moved(clean.scores(tokens))
        before, after = moved[1 : cut + 1], moved[cut + 1 :]
        if not (before <= clean.allowed).all():
            place = 1 + int(np.flatnonzero(~(before <= clean.allowed))[0])
            found = f"target {place} moved by {before[place - 1]:.1e} nats with the tokens "
            return Check("C1 causal", name, False, found + f"after {cut}")
        if not largest(after) > clean.allowed:
            return Check("C1 causal", name, False, f"no score after {cut} read the changed tokens")
        farthest = max(farthest, largest(before))
        tell(done)
    found = f"{len(cuts)} cuts, moved {farthest:.1e} of {clean.allowed:.0e} nats at most"
    return Check("C1 causal", name, True, found)


def changed_after(
    tokens: np.ndarray, cut: int, vocab_size: int, draw: np.random.Generator
) -> np.ndarray:
    """A copy in which every token behind place ``cut`` is another one."""
    altered = tokens.copy()
    tail = altered[cut + 1 :].astype(np.int64)
    altered[cut + 1 :] = (tail + draw.integers(1, vocab_size, len(tail))) % vocab_size
    return altered


@torch.inference_mode()
def normalised(
    name: str,
    score_fn: ScoreFunction,
    contexts: Tensor,
    vocab_size: int,
    tell: Callable[[int], None] = lambda done: None,
    at_once: int = 1,
) -> Check:
    """C2. Sum the probabilities of all tokens after every position, in fp64.

    Args:
        name: of the method.
        score_fn: as for `evaluation.windows.evaluate`.
        contexts: (R, T) int32; R * T positions are tried.
        vocab_size: of the tokens.
        tell: how many tokens are done.
        at_once: tokens tried in one call, which then has so many times R rows.
    """
    sums = torch.zeros(contexts.shape, dtype=torch.float64, device=contexts.device)
    repeated = contexts.repeat(at_once, 1)
    for first in range(0, vocab_size, at_once):
        tokens = torch.arange(first, first + at_once, dtype=torch.int32, device=contexts.device)
        known = tokens < vocab_size
        rows = (tokens * known).repeat_interleave(len(contexts))[:, None]
        nats = score_fn(repeated, rows.expand_as(repeated).contiguous())
        probabilities = torch.exp(-nats.double()).view(at_once, *contexts.shape)
        sums += (probabilities * known[:, None, None]).sum(0)
        tell(min(first + at_once, vocab_size))
    error = (sums - 1).abs().max().item()
    found = f"{sums.numel()} positions, sums off by {error:.1e} at most ({SUM_ERROR:.0e} allowed)"
    return Check("C2 normalised", name, error <= SUM_ERROR, found)


class Poisoned:
    """A learner that turns all it has learned into NaN after one of its calls.

    Args:
        learner: the real one.
        ledger: where scores are recorded.
        at: the call, from 0; -1: none.
    """

    def __init__(self, learner: Learner, ledger: Ledger, tokens: np.ndarray, at: int) -> None:
        self.learner, self.ledger, self.text, self.at = learner, ledger, tokens, at
        self.calls = 0
        self.unscored = self.foreign = 0
        self.taught = np.empty(0, np.int64)

    def learn(self, tokens: Tensor, places: Tensor, rate: float) -> None:
        """Learn; note what was not scored before, and what is not what it says it is."""
        known = places >= 0
        taught = places[known].cpu().numpy()
        self.unscored += len(np.setdiff1d(taught, self.ledger.places))
        given = tokens[:, -places.size(1) :][known].cpu().numpy()
        self.foreign += int((self.text[taught] != given).sum())
        self.learner.learn(tokens, places, rate)
        if self.calls == self.at:
            self.taught = taught
            for tensor in self.tensors():
                tensor.fill_(torch.nan)
        self.calls += 1

    def tensors(self) -> list[Tensor]:
        """All that learning changes."""
        return self.learner.tensors()


def poisoned(clean: Clean, at: int) -> tuple[Poisoned, np.ndarray]:
    """A run that is poisoned after learning ``at``: its learner, and nats by place."""
    ledger = Ledger()
    learners: list[Poisoned] = []

    def watch(learner: Learner) -> Learner:
        learners.append(Poisoned(learner, ledger, clean.tokens, at))
        return learners[0]

    clean.run(Text(clean.tokens), ledger, watch)
    return learners[0], ledger.by_place(clean.targets)


def before_update(
    name: str, clean: Clean, units: np.ndarray, tell: Callable[[int], None] = lambda done: None
) -> Check:
    """C3. Poison what was learned of a chunk: its own scores, and all earlier ones, must stay.

    Scores that come later in the same unit must not all survive, for the weights that are poisoned
    must be those that score; those of other units must.

    Args:
        name: of the method.
        clean: its runs over the text as it is.
        units: (targets + 1,) of each place, what learns by itself: a document, or the whole text.
        tell: how many poisonings are done.
    """
    rule = "C3 score before update"
    calls = poisoned(clean, -1)[0].calls
    if not calls:
        return Check(rule, name, False, "nothing was learned: the text is too short")
    tried = np.unique(np.linspace(0, calls - 1, 8).astype(int))
    for done, at in enumerate(tried, start=1):
        learner, nats = poisoned(clean, int(at))
        if learner.unscored or learner.foreign:
            found = f"{learner.unscored} tokens learned before they were scored, "
            return Check(rule, name, False, found + f"{learner.foreign} that are not the text's")
        moved = ~(clean.moved(nats) <= clean.allowed)
        later = later_in_unit(learner.taught, units)
        if (moved & ~later).any():
            place = int(np.flatnonzero(moved & ~later)[0])
            found = f"the score of target {place} used what was learned of it, or forgets nothing"
            return Check(rule, name, False, found)
        if later.any() and not np.isnan(nats[later]).any():
            return Check(rule, name, False, "what learns is not what scores: poison had no effect")
        tell(done)
    return Check(
        rule, name, True, f"{len(tried)} of {calls} updates poisoned, no earlier score moved"
    )


def later_in_unit(taught: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(targets + 1,) bool: places of the units that were taught, behind the last one taught."""
    last = np.full(units.max() + 1, len(units))
    np.minimum.at(last, units[taught], -1)
    np.maximum.at(last, units[taught], taught)
    return np.arange(len(units)) > last[units]


def one_pass(name: str, clean: Clean, units: np.ndarray, byte_table: ByteTable) -> Check:
    """C4. Each target is scored once, in its unit's order, and the score is their sum.

    Args:
        name, clean, units: as for ``before_update``.
        byte_table: of the tokenizer; bytes are counted anew, on the host.
    """
    rule, places, score = "C4 one pass", clean.ledger.places, clean.score
    times = np.bincount(places, minlength=clean.targets + 1)[1:]
    if (times != 1).any() or len(places) != clean.targets:
        found = f"{(times == 0).sum()} targets without a score, {(times > 1).sum()} with several"
        return Check(rule, name, False, found)
    by_unit = np.argsort(units[places], kind="stable")
    steps, same = np.diff(places[by_unit]), np.diff(units[places][by_unit]) == 0
    if (steps[same] < 1).any():
        return Check(rule, name, False, "a target was scored after one that follows it")
    counted = int(byte_table.count(clean.tokens[:-1], clean.tokens[1:]).sum())
    mean = clean.ledger.nats.mean()
    bpb = mean * clean.targets / np.log(2) / counted
    same_sums = (score.tokens, score.bytes) == (clean.targets, counted)
    if not same_sums or not np.allclose([score.nats, score.bpb], [mean, bpb], rtol=1e-6, atol=0):
        found = f"bpb {score.bpb:.6f} of {score.tokens} tokens and {score.bytes} bytes, but the "
        found += f"scores make {bpb:.6f} of {clean.targets} and {counted}"
        return Check(rule, name, False, found)
    return Check(rule, name, True, f"{clean.targets} targets, {counted} bytes, each once, in order")
