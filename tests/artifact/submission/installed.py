"""A virtual environment with what a page's requirements install, and nothing else, offline."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement


def environment(folder: Path, requirements: str) -> Path:
    """Return the Python of an environment of links to this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    for name in closure(requirements):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


def closure(requirements: str) -> set[str]:
    """Return the names of what is required, and of what that requires."""
    waiting, found = [Requirement(line) for line in requirements.splitlines() if line], set()
    while waiting:
        needed = waiting.pop()
        wanted = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if wanted and needed.name not in found:
            found.add(needed.name)
            waiting += map(Requirement, distribution(needed.name).requires or ())
    return found
