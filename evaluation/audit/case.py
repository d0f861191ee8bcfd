"""What is audited: an artifact, the judge's data, what a run says of itself, the entrant's code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from data.inputs import Scored
from errors import InputError
from evaluation.audit.entrant import Entrant
from evaluation.audit.observing import Seen
from evaluation.score import Split
from evaluation.windows import WindowPlan, Windows, cut
from reading.regular import read_bytes
from runtime import ROUNDTRIP
from runtime.records import Partial, Row, nats_file, read_environment
from settings import Settings

OTHERS = ("raw", "averaged")  # weights that are scored and are no artifact


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        cuts: positions at which C1 changes the text.
        places: targets of each method that are scored again; 0: 3,000 on a GPU, 300 without.
        seed: of all choices; whoever is audited must not know it before.
    """

    cuts: int = 40
    places: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A way in which an artifact is scored.

    Attributes:
        name: plain, sliding or TTT and its method, as in a run's summary.
        stride: of the windows.
        learns: whether it is test-time training.
    """

    name: str
    stride: int
    learns: bool = False

    @property
    def row(self) -> str:
        """Return the name of its row in a run's summary."""
        return f"{ROUNDTRIP}, {self.name}"


@dataclass
class Case:
    """All that a check may look at.

    Attributes:
        artifact: the file.
        settings: of the judge, with the run's method beneath.
        inputs: the judge's data.
        summary: of the run in whose folder the artifact lies; None without one.
        code: the entrant's: a project's folder, or its packed file.
        entrant: the process of that code.
        effort: how much is tried.
        show: called with what is being done.
        say: called with each verdict, and with the seconds of its step.
        fresh: by method, nats (tokens,) of scores that this audit made for want of the run's.
        learned: what was seen of the one run of test-time training over all targets.
    """

    artifact: Path
    settings: Settings
    inputs: Scored
    summary: Partial | None
    code: Path
    entrant: Entrant
    effort: Effort = Effort()
    show: Callable[[str], None] = lambda phase: None
    say: Callable[[str], None] = lambda line: None
    fresh: dict[str, np.ndarray] = field(default_factory=dict)
    learned: Seen | None = None

    @property
    def folder(self) -> Path:
        """The run's folder, or whichever the artifact lies in."""
        return self.artifact.parent

    @property
    def split(self) -> Split:
        """The validation split, as far as the settings score it."""
        return Split(self.inputs.validation, self.inputs.byte_table, self.settings.val_max_tokens)

    @property
    def rows(self) -> Mapping[str, Row]:
        """All scores that the run claims, by weights and method."""
        return self.summary.scores if self.summary else {}

    @cached_property
    def methods(self) -> list[Method]:
        """The methods of the settings, and those that the run claims a score of."""
        settings = self.settings
        found = [Method("plain", settings.eval_seq_len)]
        if settings.eval_stride:
            found.append(Method("sliding", settings.eval_stride))
        stride = settings.eval_stride or settings.eval_seq_len
        learning = Method(f"TTT {settings.ttt_method}", stride, learns=True)
        if settings.ttt_enabled or learning.row in self.rows:
            found.append(learning)
        return found

    @property
    def places(self) -> int:
        """Targets of each method that are scored again."""
        return self.effort.places or (3000 if self.entrant.device == "cuda" else 300)

    def fraction_of(self, doing: str) -> Callable[[float], None]:
        """Show that something begins, and return what shows the fraction that is done."""

        def show(done: float) -> None:
            self.show(f"{doing}: {done:.0%}")

        show(0.0)
        return show

    def draw(self, purpose: str) -> np.random.Generator:
        """Return random numbers for one purpose."""
        return np.random.default_rng([self.effort.seed, *purpose.encode()])

    def targets(self, method: Method) -> int:
        """Return how many targets a method scores: as many as the run claims, at most all."""
        row = self.rows.get(method.row)
        every = len(self.inputs.validation) - 1
        return min(row.tokens, every) if row and row.tokens else self.split.targets

    def tokens(self, method: Method) -> np.ndarray:
        """Return the tokens (targets + 1,) that a method scores."""
        return self.inputs.validation.read(0, self.targets(method) + 1)

    def windows(self, method: Method) -> tuple[Windows, WindowPlan]:
        """Return a method's windows over its targets, and their plan."""
        plan = WindowPlan.of(self.settings, method.stride)
        split = Split(self.inputs.validation, self.inputs.byte_table, self.targets(method))
        return cut(split, plan), plan

    def counted(self, method: Method) -> int:
        """Return the bytes of a method's targets, by the judge's table."""
        tokens = self.tokens(method)
        return int(self.inputs.byte_table.count(tokens[:-1], tokens[1:]).sum())

    def recorded(self, method: Method) -> np.ndarray | None:
        """Return the nats (tokens,) that the run kept of a method's targets; None without them.

        Raises:
            InputError: the file is a link, or has another size than the run's targets need.
        """
        path, row = nats_file(self.folder, method.row), self.rows.get(method.row)
        if row is None or not (path.exists() or path.is_symlink()):
            return None
        size = 4 * self.targets(method)
        content = read_bytes(path, size, "it has more targets than the score", links=False)
        if len(content) != size:
            raise InputError(f"{path}: {len(content):,} bytes, but the score needs {size:,}")
        return np.frombuffer(content, "<f4")

    def elsewhere(self) -> bool:
        """Return whether the run's scores were computed on another kind of device than this."""
        try:
            devices = read_environment(self.folder).devices
        except InputError:
            return False
        return (devices == ["cpu"]) != (self.entrant.device == "cpu")

    def audited(self, method: Method) -> np.ndarray:
        """Return the nats (tokens,) of a method by windows, of which places are scored again.

        They are the run's own record, or made anew by the entrant's code if there is none, or if
        another kind of device made it, which rounds otherwise.
        """
        kept = None if self.elsewhere() else self.recorded(method)
        if kept is not None:
            return kept
        if method.name not in self.fresh:
            self.show(f"scoring {method.name}")
            seen = self.entrant.score(self.tokens(method), method.stride, observe=False)
            self.fresh[method.name] = seen.of_targets
        return self.fresh[method.name]
