"""What a person says of a submission, and what they ask: the options of ``artifact submit``."""

from dataclasses import dataclass
from pathlib import Path

from errors import InputError


@dataclass(frozen=True)
class About:
    """What a person says about a submission.

    Attributes:
        name: by default that of the folder.
        author: your name.
        github_id: your account.
        blurb: what is new, in a sentence or two.
        track: of the contest.
    """

    name: str = ""
    author: str = ""
    github_id: str = ""
    blurb: str = ""
    track: str = "10min_16mb"

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
        if self.against_std is not None and (self.against is None or self.against_seeds < 2):
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
