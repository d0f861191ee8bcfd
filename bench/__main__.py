"""``python -m bench``: the commands that measure, or one of them by name."""

import ast
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run the command that is named first; without one list them all. 2 for one unknown."""
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m bench COMMAND [--help]")
        for name, about in known.items():
            print(f"  {name:14} {about}")
        return 0
    name = arguments[0]
    if name not in known:
        print(f"error: no command {name!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    sys.argv = [f"bench.{name}", *arguments[1:]]
    runpy.run_module(places()[name], run_name="__main__")
    return 0


def places() -> dict[str, str]:
    """Modules by the command's name."""
    files = sorted(FOLDER.glob("*/[!_]*.py"), key=lambda path: path.stem)
    return {path.stem: f"bench.{path.parent.name}.{path.stem}" for path in files}


def commands() -> dict[str, str]:
    """By name, what each measures; nothing is imported for it."""
    found = {}
    for path in sorted(FOLDER.glob("*/[!_]*.py"), key=lambda path: path.stem):
        source = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in source:
            about = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = about.partition("\n")[0].partition(": ``python")[0]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
