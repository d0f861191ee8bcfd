"""How one file holds a project: the head of every bundle of `artifact.submission.bundle`.

A template: never imported by the project, only copied. So its import of ``train`` is no circle.

``TEXTS`` and ``PACKED`` (in base 85), which a bundle fills below, hold files by path. Modules are
imported from there, and Python's own inspection finds their text, which Triton reads to compile a
kernel. Data lies in a folder of its own while the program runs, so that whoever opens it by path
finds it.
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

TEXTS: dict[str, str] = {}
PACKED: dict[str, str] = {}


class Sources(MetaPathFinder, ExecutionLoader):
    """Imports modules from ``TEXTS``, as though these lay under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of a module of this file; None for others."""
        return spec_from_loader(fullname, self) if self._place(fullname) else None

    def is_package(self, fullname: str) -> bool:
        """Whether it is a package's ``__init__``."""
        return self._found(fullname).endswith("__init__.py")

    def get_filename(self, fullname: str) -> str:
        """Return the path that tracebacks show."""
        return str(self.root / self._found(fullname))

    def get_source(self, fullname: str) -> str:
        """Return the module's text, from which ``inspect`` and tracebacks read lines."""
        return TEXTS[self._found(fullname)]

    def _found(self, fullname: str) -> str:
        place = self._place(fullname)
        if place is None:
            raise ImportError(f"no module {fullname} in this file", name=fullname)
        return place

    def _place(self, fullname: str) -> str | None:
        stem = fullname.replace(".", "/")
        return next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if p in TEXTS), None)


def main() -> int:
    """Run ``train.py`` with the bundled preset, unless another is given; return its exit code."""
    with TemporaryDirectory(prefix="train_gpt_") as folder:
        root = Path(folder).resolve()
        data = {name: text.encode() for name, text in TEXTS.items() if not name.endswith(".py")}
        data |= {name: base64.b85decode(coded) for name, coded in PACKED.items()}
        for name, content in data.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        # First of all finders: a folder called data where it is started must not be taken for ours.
        sys.meta_path.insert(0, Sources(root))
        os.environ.setdefault("MURMURATION_PRESET", "submission")
        import train

        train.PROJECT = Path(__file__).resolve()  # this one file is the code that counts
        return train.main(sys.argv[1:])
