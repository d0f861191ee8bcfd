"""What is seen of a run: each score as it becomes final, and what is learned between scores.

It runs in the entrant's process, so it imports nothing of the project. All that it sees of a run
are two callbacks, so it holds for any method, and for one that cheats.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from evaluation.score import Record, Score, Tokens
    from evaluation.ttt.learner import Watch

EVERY = 1.0  # seconds between two words on what is done

# (inputs (B, T) int32, rows (P,) and places in them (P,) int64) -> nats (P, V) of all tokens there.
Distribution = Callable[[Tensor, Tensor, Tensor], Tensor]


class TokenArray:
    """Tokens in memory, as `evaluation.score.Tokens`.

    Raises:
        IndexError: a read outside of the tokens.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens [start, start + count)."""
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens [{start}, {start + count}) of a text of {len(self)}")
        return self.tokens[start : start + count]


# Scores tokens; tells each score to the first callback, and learns by what the second returns.
Run = Callable[["Tokens", "Record", "Watch"], "Score"]


@dataclass(frozen=True)
class Seen:
    """What was seen of a run.

    Attributes:
        positions, nats: (N,) int64 and fp64, each score in the order in which it became final.
        of_targets: (tokens,) fp32, what the run keeps of its scores.
        row: nats, bpb, tokens, bytes, seconds.
        updates: how many there were.
        unscored: tokens that had no score when an update used them.
        foreign: tokens given to updates that are not the text's at their positions.
        poisoned: positions that the poisoned update used.
        sums: of the probabilities of all tokens after the first update; empty without one.
        places: (P,) positions that were scored again, of those asked for.
        again: (P, V) fp32 nats of all tokens there.
    """

    positions: np.ndarray
    nats: np.ndarray
    of_targets: np.ndarray
    row: dict[str, float]
    updates: int = 0
    unscored: int = 0
    foreign: int = 0
    poisoned: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.empty(0))
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    again: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def by_position(self, targets: int) -> np.ndarray:
        """Return (targets + 1,) fp64: each position's last score, infinite without one."""
        scores = np.full(targets + 1, np.inf)
        inside = (self.positions >= 0) & (self.positions <= targets)
        scores[self.positions[inside]] = self.nats[inside]
        return scores


class Again:
    """Scores places again while a run learns, from the tokens before each and nothing else.

    Args:
        text: the split.
        places: (P,) targets, each at most once.
        starts: (P,) of each the first token of its context.
        distribution: by the weights as they are. Its inputs have the shape of the batch that was
            scored, so that no kernel is compiled for them.
        by_row: whether each row of a batch has weights of its own, as documents' adapters.
    """

    def __init__(
        self,
        text: np.ndarray,
        places: np.ndarray,
        starts: np.ndarray,
        distribution: Distribution,
        by_row: bool,
    ) -> None:
        self.text, self.distribution, self.by_row, self.rows = text, distribution, by_row, 0
        self.starts = dict(zip(places.tolist(), starts.tolist(), strict=True))
        self.waiting: list[tuple[int, int, int]] = []
        self.wanted = np.zeros(len(text) + 1, bool)
        self.wanted[places] = True
        self.found: dict[int, np.ndarray] = {}

    def see(self, positions: np.ndarray, is_new: np.ndarray) -> None:
        """Take up the places among a batch's positions (B, S)."""
        self.rows = max(self.rows, len(positions))
        if self.by_row:
            self.rows = len(positions)
        rows, columns = np.nonzero(is_new & self.wanted[np.where(is_new, positions, 0)])
        places, ends = positions[rows, columns], positions[rows, -1]
        self.waiting += zip(places.tolist(), rows.tolist(), ends.tolist(), strict=True)
        if self.by_row or len(self.waiting) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Score all that waits; the weights are still those that scored it first."""
        while self.waiting:
            taken: dict[int, int] = {}
            left: list[tuple[int, int, int]] = []
            length = 0
            for place, row, end in self.waiting:
                at = row if self.by_row else len(taken)
                if at in taken or at >= self.rows:
                    left.append((place, row, end))
                else:
                    taken[at] = place
                    length = max(length, max(place, end) - self.starts[place])
            self.waiting = left
            self._score(taken, length)

    @torch.no_grad()
    def _score(self, taken: dict[int, int], length: int) -> None:
        contexts = [self.text[self.starts[place] : place] for place in taken.values()]
        inputs, last = padded(contexts, list(taken), (self.rows, length))
        numbers = inputs, np.array(list(taken)), last
        nats = self.distribution(*map(torch.from_numpy, numbers)).float().cpu().numpy()
        self.found |= zip(taken.values(), nats, strict=True)


def padded(
    contexts: list[np.ndarray], rows: list[int], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs of ``shape`` int32 with each context in its row, and each context's last place.

    Behind a context come zeros, which say nothing about the text there.
    """
    inputs = np.zeros(shape, np.int32)
    for row, context in zip(rows, contexts, strict=True):
        inputs[row, : len(context)] = context
    return inputs, np.array([len(context) - 1 for context in contexts], np.int64)


class Observed:
    """A learner as the run sees it, with the observer in between."""

    def __init__(self, observer: "Observer", learner: Any) -> None:
        self.observer, self.learner = observer, learner
        self.score, self.tensors = learner.score, learner.tensors

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Update, seen by the observer."""
        self.observer.update(self.learner, tokens, positions, lr_scale)


class Observer:
    """Both callbacks of a run, and what its learners do.

    Args:
        tokens: the text.
        poison: the update, from 0, after which all that it changed is NaN; -1: none.
        again: scores places again; None: none.
        sums: returns the sums of probabilities by the learner's weights; None: not asked.
        tell: called every ``EVERY`` seconds with the fraction of the targets that are scored.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        poison: int = -1,
        again: Again | None = None,
        sums: Callable[[Any], np.ndarray] | None = None,
        tell: Callable[[float], None] = lambda done: None,
    ) -> None:
        self.text, self.poison, self.again, self.sum_up = tokens, poison, again, sums
        self.tell, self.told = tell, time.monotonic()
        self.scored = np.zeros(len(tokens) + 1, bool)
        self.positions: list[np.ndarray] = [np.empty(0, np.int64)]
        self.nats: list[np.ndarray] = [np.empty(0)]
        self.count = self.updates = self.unscored = self.foreign = 0
        self.poisoned, self.sums = np.empty(0, np.int64), np.empty(0)
        self.learner: Any = None

    def record(self, positions: Tensor, nats: Tensor, is_new: Tensor) -> None:
        """See scores, as `evaluation.score.Record`."""
        where, new = positions.cpu().numpy(), is_new.cpu().numpy()
        self.positions.append(where[new])
        self.nats.append(nats.double().cpu().numpy()[new])
        inside = where[new]
        self.scored[inside[(inside >= 0) & (inside < len(self.scored))]] = True
        self.count += len(inside)
        if time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            self.tell(self.count / (len(self.text) - 1))
        if self.again:
            self.again.see(where, new)
            # No update follows the last scores.
            if self.count >= len(self.text) - 1:
                self.again.flush()

    def watch(self, learner: Any) -> Observed:
        """Stand in for a learner, as `evaluation.ttt.learner.Watch`; the last one scores."""
        self.learner = learner
        return Observed(self, learner)

    def update(self, learner: Any, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        """Update, and count tokens without a score and tokens that are not the text's."""
        if self.again:
            self.again.flush()
        known = positions >= 0
        used = positions[known].cpu().numpy()
        self.unscored += int((~self.scored[np.unique(used)]).sum())
        given = tokens[:, -positions.size(1) :][known].cpu().numpy()
        self.foreign += int((self.text[used] != given).sum())
        learner.update(tokens, positions, lr_scale)
        if self.updates == self.poison:
            self.poisoned = used
            for tensor in learner.tensors():
                tensor.fill_(torch.nan)
        if self.updates == 0 and self.sum_up:
            self.sums = self.sum_up(self.learner)
        self.updates += 1

    def of(self, run: Run) -> Seen:
        """Run, and return what was seen."""
        score = run(TokenArray(self.text), self.record, self.watch)
        again = self.again
        places = np.array(sorted(again.found), np.int64) if again else np.empty(0, np.int64)
        return Seen(
            np.concatenate(self.positions),
            np.concatenate(self.nats),
            score.of_targets.float().cpu().numpy(),
            score.row(),
            self.updates,
            self.unscored,
            self.foreign,
            self.poisoned,
            self.sums,
            places,
            np.stack([again.found[place] for place in places.tolist()])
            if again and len(places)
            else np.empty((0, 0), np.float32),
        )


@torch.inference_mode()
def sums_of_probabilities(
    score: Callable[[Tensor, Tensor], Tensor],
    contexts: Tensor,
    scored: int,
    vocab_size: int,
    at_once: int = 1,
    by_row: bool = False,
) -> np.ndarray:
    """Sum the probabilities of all tokens after each of the last places of contexts, in fp64.

    Args:
        score: as `evaluation.score.ScoreFunction`.
        contexts: (R, T) int32.
        scored: S, places of each, as many as a call of ``score`` has targets.
        vocab_size: of the tokens.
        at_once: tokens tried in one call, which then has so many times R rows.
        by_row: whether each row has weights of its own, as for ``Again``. Then the call has R rows
            in any case, and the tokens are choices of the targets (at_once, R, S).

    Returns:
        (R, S) fp64.
    """
    sums = torch.zeros(len(contexts), scored, dtype=torch.float64, device=contexts.device)
    rows, repeated = len(contexts), contexts if by_row else contexts.repeat(at_once, 1)
    for first in range(0, vocab_size, at_once):
        tokens = torch.arange(first, first + at_once, dtype=torch.int32, device=contexts.device)
        known = tokens < vocab_size
        tried = (tokens * known)[:, None, None].expand(at_once, rows, scored)
        nats = score(repeated, (tried if by_row else tried.flatten(0, 1)).contiguous())
        probabilities = torch.exp(-nats.double()).view(at_once, *sums.shape)
        sums += (probabilities * known[:, None, None]).sum(0)
    return sums.cpu().numpy()
