"""Measured numbers without a peer, in their units, with their targets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number; ``most`` or ``least`` is its target, None if it has none."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is within its bar."""
        high = self.most is not None and not self.value <= self.most
        return not high and (self.least is None or self.value >= self.least)

    def row(self) -> str:
        """Return cells of a Markdown table: what, value, bar."""
        bars = [f"<= {self.most:g}"] if self.most is not None else []
        bars += [f">= {self.least:g}"] if self.least is not None else []
        verdict = f"{'met' if self.met else 'missed'} ({', '.join(bars)})" if bars else "-"
        return f"| {self.what} | {self.value:.4g} {self.unit} | {verdict} |"


def missed(figures: list[Figure]) -> list[str]:
    """Return the rows of figures that miss their targets."""
    return [figure.row() for figure in figures if not figure.met]


def figures_table(figures: list[Figure]) -> str:
    """Return a Markdown table with one row per figure."""
    return "\n".join(["| what | measured | bar |", "|---|---|---|", *(f.row() for f in figures)])
