"""What a person says of a submission, and what they ask: the options of ``artifact submit``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from errors import InputError


@dataclass(frozen=True)
class About:
    """What a person says about a submission.

    Attributes:
        name: by default that of the folder.
        author: your name.
        github_id: your account.
        blurb: what is new, in a sentence or two.
        track: of the contest; the 10 minutes are a limit in one of them.
    """

    name: str = ""
    author: str = ""
    github_id: str = ""
    blurb: str = ""
    track: Literal["10min_16mb", "non_record_16mb"] = "10min_16mb"

    def missing(self) -> list[str]:
        """Return the fields that a submission should have and that are empty."""
        return [each for each in ("author", "github_id", "blurb") if not getattr(self, each)]


@dataclass(frozen=True)
class Rival:
    """The record to beat.

    Attributes:
        against: its bits per byte, in the mean.
        against_std: standard deviation over its seeds, if known.
        against_seeds: number of its seeds.
    """

    against: float | None = None
    against_std: float | None = None
    against_seeds: int = 3

    def __post_init__(self) -> None:
        against, std = self.against, self.against_std
        if against is not None and not 0 < against < math.inf:
            raise InputError(f"--against {against}: give a positive number of bits per byte")
        if std is not None and not 0 <= std < math.inf:
            raise InputError(f"--against-std {std}: give a standard deviation, 0 or more")
        if self.against_seeds < 1:
            raise InputError(f"--against-seeds {self.against_seeds}: give 1 or more")
        if std is not None and (against is None or self.against_seeds < 2):
            raise InputError("--against-std: give --against too, and 2 seeds or more")


@dataclass(frozen=True)
class Judging:
    """How runs are judged.

    Attributes:
        method: the score that counts, such as "sliding"; None: the best that all runs have.
        data: folder with the validation split; by default the runs'.
        audit: whether the best run's artifact is audited, which evaluates it again.
    """

    method: str | None = None
    data: Path | None = None
    audit: bool = True


NOTHING_SAID, NO_RIVAL, BY_BEST = About(), Rival(), Judging()
