"""``murmuration COMMAND``: every program of the project, from any folder.

``pip install -e .`` installs the command, and nothing else: the packages beside this file are
importable in its process only, because names such as ``data`` belong to no project alone.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
# By command: the module whose ``main`` runs it, how it is started without this one, and its help.
COMMANDS = {
    "train": ("train", "train.py", "train a GPT, export it and score it"),
    "data": ("data.__main__", "python -m data", "make, download and inspect data folders"),
    "evaluate": ("evaluation.__main__", "python -m evaluation", "score and audit an artifact"),
    "artifact": ("artifact.__main__", "python -m artifact", "list its tensors; make a submission"),
    "swarm": ("swarm.__main__", "python -m swarm", "replay a run's decisions; simulate a swarm"),
    "knowledge": ("knowledge.__main__", "python -m knowledge", "distil a graph to token scores"),
    "bench": ("bench.__main__", "python -m bench", "measure, check and compare"),
    "plot": ("runtime.plot.__main__", "python -m runtime.plot", "draw a run, or compare several"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that is named first; return its exit code, 2 for an unknown one.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if not (PROJECT / "train.py").is_file():
        print("error: install it from a checkout that stays: pip install -e .", file=sys.stderr)
        return 2
    return run(name, rest)


def run(name: str, arguments: Sequence[str]) -> int:
    """Import a command's module from this folder, ahead of all others, and run it."""
    if str(PROJECT) not in sys.path:
        sys.path.insert(0, str(PROJECT))
    try:
        import command_line

        for command, (_, otherwise, _) in COMMANDS.items():
            command_line.SPELLED[otherwise] = f"murmuration {command}"
        sys.argv = [f"murmuration {name}", *arguments]
        module = importlib.import_module(COMMANDS[name][0])
    except ModuleNotFoundError as error:
        print(f"error: {error}; pip install -r {PROJECT}/requirements.txt", file=sys.stderr)
        return 2
    return module.main(arguments)


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:9}  {about}" for name, (_, _, about) in COMMANDS.items()]
    return "\n".join(["Usage: murmuration COMMAND [OPTIONS]", "", *lines, "", "COMMAND --help"])


if __name__ == "__main__":
    sys.exit(main())
