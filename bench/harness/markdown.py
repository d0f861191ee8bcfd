"""Tables of results as Markdown, which ``bench.pages`` reads again."""

from collections.abc import Iterable, Sequence


def markdown(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table as text.

    Args:
        heads: of its columns.
        rows: cells of each row, as many as there are heads.
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])
