"""``python -m bench``: the commands that measure, one module each."""

import ast
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import command_line

FOLDER = Path(__file__).parent
COMMANDS = {  # and their folders
    "ablate": "studies",
    "against": "commits",
    "artifact": "studies",
    "artifact_fuzz": "studies",
    "budget": "step",
    "clock": "step",
    "curve": "studies",
    "decisions": "swarm",
    "edges": "studies",
    "figures": "pages",
    "fuzz": "studies",
    "hold_out": "studies",
    "kill": "studies",
    "knowledge": "studies",
    "ladder": "studies",
    "parallel": "step",
    "parts": "studies",
    "portfolio": "studies",
    "predict": "step",
    "profile": "step",
    "rescue": "rescue",
    "session": "pages",
    "speed": "step",
    "sprint": "studies",
    "startup": "step",
    "submission": "studies",
    "tables": "pages",
    "trials": "studies",
    "tune_mlp": "studies",
    "tune_ttt": "studies",
    "variants": "step",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command that is named first; without one list them all. Returns the exit code."""
    app = command_line.program("python -m bench", "Measure, check and compare.")
    for name, folder in COMMANDS.items():
        text = command_line.paragraphs(about(FOLDER / folder / f"{name}.py"))
        app.command(f"bench.{folder}.{name}:main", name=name, help=text)
    try:
        return command_line.run(app, arguments or ["--help"])
    except subprocess.CalledProcessError as error:
        # What the process printed says more than a traceback of this one.
        command = shlex.join(map(str, error.cmd))
        command_line.complain(f"error: exit code {error.returncode} of: {command}")
        return command_line.BAD_INPUT


def about(path: Path) -> str:
    """Return a module's docstring without importing the module, which would take seconds."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


if __name__ == "__main__":
    # Leaving by an exception lets a command end the processes that it has started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
