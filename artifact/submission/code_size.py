"""Count the bytes of a run's code, the other part of the contest's 16,000,000 bytes."""

import sys
from pathlib import Path

LIMIT = 16_000_000


class OverBudget(RuntimeError):  # noqa: N818
    """Code and artifact together are larger than the limit. Raised once everything is saved."""


def code_bytes(root: Path) -> dict[str, int]:
    """Return bytes of every project file that this process runs on, by path relative to ``root``.

    These are the files of all modules imported so far, the started script included, and the
    presets: call it at the end of a run, when nothing is left to import. Installed packages are
    no part of the project, even where their environment lies inside ``root``. A project in one file
    (`artifact.submission.bundle`) is its own ``root``.
    """
    root = root.resolve()
    folder = root if root.is_dir() else root.parent
    sources = [
        getattr(module, "__dict__", {}).get("__file__") for module in [*sys.modules.values()]
    ]
    found = {Path(source).resolve() for source in sources if source}
    found |= set(root.glob("presets/*.toml"))
    files = sorted(file for file in found if file.is_file() and _is_ours(file, root))
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def budget_line(code: int, artifact: int, limit: int = LIMIT) -> str:
    """Return one line with code, artifact, their total and what is left (or over), in bytes."""
    total = code + artifact
    rest = f"{limit - total:,} left" if total <= limit else f"{total - limit:,} over"
    return f"code {code:,} + artifact {artifact:,} = {total:,} of {limit:,} bytes ({rest})"


def check_total(code: int, artifact: int, limit: int = LIMIT) -> None:
    """Raise OverBudget, naming every number, if the two together are over the limit."""
    if code + artifact > limit:
        raise OverBudget(budget_line(code, artifact, limit))


def _is_ours(file: Path, root: Path) -> bool:
    environment = Path(sys.prefix).resolve()
    return (
        file.is_relative_to(root)
        and not file.is_relative_to(environment)
        and "site-packages" not in file.parts
    )
