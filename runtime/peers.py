"""What ranks tell each other besides collectives: who ends and why, who is late, who is lost.

A rank that fails leaves the others waiting in a collective, from which no exception gets them. So
each rank has a thread that looks into the store by which the ranks have met.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from torch.distributed import Store

POLL = 0.5  # seconds between two looks
BEAT = 2.0  # seconds after which a rank says again how far it is
SILENCE = 6.0  # seconds without such a word after which a rank is lost
WAIT = 60.0  # seconds in a collective before a rank says for whom it waits; then twice as many
LEAVING = 5.0  # seconds that the others may take to end
FIRST_RANK_FIRST = 2.0  # seconds in which rank 0 may name an error that every rank has found
END, GONE, AT = "murmuration/end", "murmuration/gone", "murmuration/at"
RESUME, SPOKEN = "murmuration/resume", "murmuration/spoken"


class Peers:
    """One rank's view of the others.

    Args:
        store: of the process group.
        rank, size: as in `runtime.ranks.World`.

    Attributes:
        met: number of collectives that this rank has called; ranks call them in the same order.
        farewell: called with a signal's number, or 0, before this rank ends because another does;
            returns the exit code.
        tell: prints a line.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.met = 0
        self.farewell: Callable[[int], int] = lambda number: 128 + number if number else 0
        self.tell: Callable[[str], object] = print
        self._ended, self._first = threading.Event(), False
        self._seen, self._since, self._wait = 0, time.monotonic(), WAIT
        self._keys = [f"{AT}/{each}" for each in range(size)]
        self._heard: dict[int, tuple[bytes, float]] = {}  # last word of each rank, and when it came
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def end(self, number: int, wait: bool = False) -> None:
        """Tell the others that this rank ends; return when they have, so that it speaks last.

        Does not return if another rank was the first: this one then ends as that one says.

        Args:
            number: of the signal that ends it; 0: an error.
            wait: whether all ranks may have found the error, so that rank 0 should name it.
        """
        self._ended.set()
        until = time.monotonic() + (FIRST_RANK_FIRST if wait and self.rank else 0.0)
        mine = ending = f"{self.rank} {number}"
        with suppress(RuntimeError):  # the rank that has the store is gone
            while time.monotonic() < until and not self.store.check([END]):
                time.sleep(0.05)
            ending = self.store.compare_set(END, "", mine).decode()
        if ending != mine:
            self._follow(ending)
        with suppress(RuntimeError):
            self._await_others()
        self._first = True

    def stop(self) -> None:
        """Leave without a word, because every rank does."""
        self._ended.set()
        with suppress(RuntimeError):  # the rank that has the store is gone
            self._leave()

    def lost(self) -> bool:
        """Return whether a rank, or the store, was silent for ``SILENCE`` seconds.

        These seconds begin with the first call: without one, nobody listens.
        """
        if not self._heard:
            self._heard = dict.fromkeys(range(self.size), (b"", time.monotonic()))
        return bool(self._silent())

    def tell_how_to_resume(self, command: str) -> None:
        """Let the others say how to go on, should this rank, which speaks for all, be lost."""
        self.store.set(RESUME, command)

    def last_words(self) -> str:
        """Return how to go on if rank 0 is lost, else nothing.

        The first rank that asks says it, if rank 0 did not follow it, or is silent.
        """
        silent = self._silent()
        if not self._first and (0 not in silent or self.rank in silent):
            return ""
        with suppress(RuntimeError):
            if self.store.check([RESUME]) and self.store.add(SPOKEN, 1) == 1:
                return f"rank 0 is lost; go on with: {self.store.get(RESUME).decode()}"
        return ""

    def _silent(self) -> set[int]:
        """Return the ranks that were silent for ``SILENCE`` seconds; all, if the store was."""
        now = time.monotonic()
        return {rank for rank, (_, at) in self._heard.items() if now - at > SILENCE}

    def _await_others(self) -> None:
        until = time.monotonic() + LEAVING
        while time.monotonic() < until and self.store.add(GONE, 0) < self.size - 1:
            time.sleep(0.02)

    def _follow(self, ending: str) -> None:
        number = int(ending.split()[1])
        # torchrun must see one failure, which is that of the rank that was the first.
        code = self.farewell(number)
        with suppress(RuntimeError):
            self._leave()
        os._exit(code)

    def _leave(self) -> None:
        if self.rank == 0:  # which has spoken for itself
            self.store.add(SPOKEN, 1)
        self.store.add(GONE, 1)

    def _watch(self) -> None:
        beat, beats = 0.0, 0
        try:
            while not self._ended.wait(POLL):
                if self.store.check([END]) and not self._ended.is_set():
                    self._follow(self.store.get(END).decode())
                if time.monotonic() - beat > BEAT:
                    beat, beats = time.monotonic(), beats + 1
                    self.store.set(self._keys[self.rank], f"{self.met} {beats}")
                    self._say_who_is_late()
                if self._heard and self.store.check(self._keys):
                    self._hear(self.store.multi_get(self._keys))
        except RuntimeError:  # the store has gone, and with it the run
            return

    def _hear(self, words: list[bytes]) -> None:
        now = time.monotonic()
        for rank, word in enumerate(words):
            if word != self._heard[rank][0]:
                self._heard[rank] = word, now

    def _say_who_is_late(self) -> None:
        if self.met != self._seen:
            self._seen, self._since, self._wait = self.met, time.monotonic(), WAIT
        waited = time.monotonic() - self._since
        if waited < self._wait or not self.store.check(self._keys):
            return
        met = [int(each.split()[0]) for each in self.store.multi_get(self._keys)]
        late = [rank for rank, number in enumerate(met) if number < self.met]
        if late and self.rank == min(set(range(self.size)) - set(late)):
            ranks = f"rank {', '.join(map(str, late))}"
            self.tell(f"rank {self.rank} has waited {waited:.0f} s for {ranks}")
            self._wait *= 2
