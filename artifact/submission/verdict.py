"""What the scores of several seeds are worth against another record."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import ttest_1samp, ttest_ind_from_stats

from artifact.submission.asked import Rival
from artifact.submission.entry import Entry
from errors import InputError
from runtime import ROUNDTRIP

MARGIN = 0.005  # nats a token by which a record must be better than the last


@dataclass(frozen=True)
class Verdict:
    """What several seeds say, in bits per byte.

    Attributes:
        method: which of the runs' scores of the artifact.
        chosen_of: methods that all runs have, where the method was not named: then it is that with
            the lowest mean.
        mean, spread: over the seeds; the sample's standard deviation, NaN for one seed.
        against: the score to beat.
        margin: bits per byte that `MARGIN` is for these tokens.
        test: the name of the test.
        p_value: of a mean no lower than ``against`` less the margin, one-sided; None where there
            is nothing to test, or a single seed.
    """

    method: str
    chosen_of: Sequence[str]
    mean: float
    spread: float
    against: float | None
    margin: float
    test: str
    p_value: float | None

    @classmethod
    def of(cls, entries: Sequence[Entry], rival: Rival, method: str | None = None) -> "Verdict":
        """Judge runs.

        Args:
            entries: the runs.
            rival: to beat.
            method: such as "sliding"; None: the best that all runs have.

        Raises:
            InputError: the runs have no score in common, or not that one.
        """
        rows = [{name for name in e.summary.scores if name.startswith(ROUNDTRIP)} for e in entries]
        common = sorted(set.intersection(*rows))
        if not common:
            raise InputError("the runs have no score in common; score all of them alike")
        named = f"{ROUNDTRIP}, {method}"
        if method and named not in common:
            has = ", ".join(name.removeprefix(f"{ROUNDTRIP}, ") for name in common)
            raise InputError(f"--method {method}: all runs have {has}")
        values = {name: [e.score(name).bpb for e in entries] for name in common}
        best = min(common, key=lambda name: statistics.fmean(values[name]))
        name, several = named if method else best, len(entries) > 1
        row = entries[0].score(name)
        margin = MARGIN / math.log(2) * row.tokens / row.bytes
        test, p_value = tested(values[name], rival, margin)
        return cls(
            name,
            () if method or len(common) == 1 else common,
            statistics.fmean(values[name]),
            statistics.stdev(values[name]) if several else math.nan,
            rival.against,
            margin,
            test,
            p_value,
        )

    def __str__(self) -> str:
        spread = "" if math.isnan(self.spread) else f", standard deviation {self.spread:.5f}"
        said = f"{self.mean:.5f} bits per byte in the mean ({self.method}){spread}"
        if self.against is not None:
            p_value = "needs a second seed" if self.p_value is None else f"{self.p_value:.2g}"
            said += f"; against {self.against:.5f} less {MARGIN} nats ({self.margin:.5f}) "
            said += f"p = {p_value} ({self.test})"
        if self.chosen_of:
            said += f"; chosen after the runs as the lowest of {len(self.chosen_of)} methods"
        return said


def tested(found: Sequence[float], rival: Rival, margin: float) -> tuple[str, float | None]:
    """Return the name of a one-sided test that scores are lower than a rival's, and its p.

    It is Welch's t-test where the rival's standard deviation is known, else Student's.
    """
    welch = rival.against_std is not None
    name = "Welch's t-test, one-sided" if welch else "one-sided t-test"
    if rival.against is None or len(found) < 2:
        return name, None
    goal = rival.against - margin
    if not welch:
        _, p_value = map(float, ttest_1samp(found, goal, alternative="less"))
        return name, p_value
    ours = statistics.fmean(found), statistics.stdev(found), len(found)
    theirs = goal, rival.against_std, rival.against_seeds
    result = ttest_ind_from_stats(*ours, *theirs, equal_var=False, alternative="less")
    _, p_value = map(float, result)
    return name, p_value
