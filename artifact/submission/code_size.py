"""Count the code as a submission stores it: the other part of the contest's 16,000,000 bytes."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from files import sha256

if TYPE_CHECKING:
    from settings import Settings

LIMIT = 16_000_000
SCRIPT = "train_gpt.py"


class OverBudget(RuntimeError):  # noqa: N818
    """Code and artifact together are larger than the limit. Raised once everything is saved."""


class Code(NamedTuple):
    """A submission's one file: its bytes, and their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, settings: "Settings") -> "Code":
        """Return the code that runs.

        Args:
            root: of the project, whose file is packed as `artifact submit` packs it; or that file.
            settings: which the file carries along.

        Raises:
            InputError: a file of the project is missing.
        """
        if root.is_file():
            script = root.read_bytes()
            return cls(len(script), hashlib.sha256(script).hexdigest())
        from artifact.submission.packed import size

        return cls(*size(root, settings))


def hashes_of(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each module that counts as code, by path.

    Args:
        root: of the project, or a submission's one file.
    """
    if root.is_file():
        return {SCRIPT: sha256(root)}
    from artifact.submission.bundle import modules

    return {name: sha256(root / name) for name in sorted(modules(root))}


def budget_line(code: int, artifact: int, limit: int = LIMIT) -> str:
    """Return one line with code, artifact, their total and what is left or over, in bytes."""
    total = code + artifact
    rest = f"{limit - total:,} left" if total <= limit else f"{total - limit:,} over"
    return f"code {code:,} + artifact {artifact:,} = {total:,} of {limit:,} bytes ({rest})"


def check_total(code: int, artifact: int, limit: int = LIMIT) -> None:
    """Raise OverBudget, naming every number, if the two together are over the limit."""
    if code + artifact > limit:
        raise OverBudget(budget_line(code, artifact, limit))
