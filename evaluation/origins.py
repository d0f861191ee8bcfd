"""Where a run's numbers come from: its code and data by SHA-256, and what its processes did."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifact.submission.code_size import hashes_of
from data.inputs import Scored
from files import PROJECT
from runtime import watching
from settings import Settings

if TYPE_CHECKING:
    from runtime.ranks import World


class Origins:
    """Watches a process from here on, and records code and data.

    Args:
        root: of the code: the project, or a submission's one file.
        settings: of the run, whose folders and files it may open.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.code = root, hashes_of(root)
        given = (settings.data, settings.tokenizer, settings.config, settings.run_dir)
        scores = Path(settings.kg_scores) if settings.kg_scores else None
        folders = [path for path in (*given, settings.resume, settings.edges, scores) if path]
        watching.install([root, PROJECT], folders, training=True)

    def facts(self, world: "World", inputs: Scored) -> dict[str, object]:
        """Return what the run's summary says: hashes, and what lies outside of what is allowed.

        Each rank calls it; the findings are those of all ranks, and rank 0 has the facts.
        """
        found = merged(world.gathered(watching.seen()))
        if not world.is_main:
            return {}
        now = hashes_of(self.root)
        found["code"] = [name for name, digest in self.code.items() if now.get(name) != digest]
        return {"data": inputs.hashes(), "observed": found, "code_modules": self.code}


def merged(every: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Return the findings of all ranks by kind, each once."""
    kinds = {kind for findings in every for kind in findings}
    return {
        kind: list(dict.fromkeys(each for findings in every for each in findings.get(kind, ())))
        for kind in sorted(kinds)
    }
