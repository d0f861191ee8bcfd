"""The beginning of a file that holds a whole project: see `artifact.submission.packed`.

A template: never imported by the project, only copied. So its import of ``train`` is no circle.

``FILES`` holds files by path, text or base 85. Modules are imported from there, and Python's own
inspection finds their text, which Triton reads to compile a kernel. Data lies in a folder of its
own while the program runs, so that it can be opened by path.
"""

import base64
import os
import sys
from collections.abc import Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

FILES: dict[str, str] = {}
EVALUATE = "--evaluate"


class Sources(MetaPathFinder, ExecutionLoader):
    """Imports modules from ``FILES``, as though these lay under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a module that is here; None for all others."""
        return spec_from_loader(fullname, self) if self._place(fullname) else None

    def is_package(self, fullname: str) -> bool:
        """Return whether it is a package's ``__init__``."""
        return self._found(fullname).endswith("__init__.py")

    def get_filename(self, fullname: str) -> str:
        """Return the path that tracebacks show."""
        return str(self.root / self._found(fullname))

    def get_source(self, fullname: str) -> str:
        """Return the module's text: what ``inspect`` and tracebacks read lines from."""
        return FILES[self._found(fullname)]

    def _found(self, fullname: str) -> str:
        place = self._place(fullname)
        if place is None:
            raise ImportError(f"no module {fullname} in this file", name=fullname)
        return place

    def _place(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        return next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if p in FILES), None)


def unpack(root: Path) -> None:
    """Write what is no module to a folder, and let modules be imported from ``FILES``."""
    for name, text in FILES.items():
        if not name.endswith(".py"):
            is_text = name.endswith((".toml", ".edges"))
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text.encode() if is_text else base64.b85decode(text))
    # First of all finders: a folder called data where it is started must not be taken for ours.
    sys.meta_path.insert(0, Sources(root))


def main() -> int:
    """Train with the preset that came along, or score an artifact; return the exit code.

    ``--evaluate ARTIFACT`` prints every score that a run with this preset has of its artifact; the
    options after it are those of ``python -m evaluation``.
    """
    with TemporaryDirectory(prefix="train_gpt_") as folder:
        unpack(Path(folder).resolve())
        os.environ.setdefault("MURMURATION_PRESET", "submission")
        arguments = sys.argv[1:]
        if arguments[:1] == [EVALUATE]:
            from evaluation.every import main as evaluate

            return evaluate(["all", *arguments[1:]])
        import train

        train.PROJECT = Path(__file__).resolve()  # this one file is the code that counts
        return train.main(arguments)
