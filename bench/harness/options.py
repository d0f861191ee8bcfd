"""Settings as the command line of train.py has them."""

import json
from collections.abc import Iterator
from typing import Any

from settings.stages import Stage


def option(name: str, value: Any) -> Iterator[str]:
    """Yield a setting's option and its value, as the command line has them."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
        return
    yield f"--{name}"
    if isinstance(value, list):
        staged = bool(value) and isinstance(value[0], Stage)
        yield f"[{', '.join(map(inline, value))}]" if staged else ",".join(map(str, value))
    else:
        yield str(value)


def inline(stage: Stage) -> str:
    """Return a stage as an inline table of TOML."""
    fields = stage.model_dump(exclude_none=True)
    # What JSON has of a number, a truth value or a word is TOML as well.
    return "{" + ", ".join(f"{name} = {json.dumps(each)}" for name, each in fields.items()) + "}"
