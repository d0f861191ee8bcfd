"""The table that maps raw relation names to the ten types of edges and their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from errors import InputError
from reading.structured import read_toml

DEFAULT_TABLE = Path(__file__).with_name("relations.toml")
Type = Literal[
    "Solves",
    "Causes",
    "Requires",
    "Enables",
    "Contradicts",
    "ConnectsTo",
    "Improves",
    "PartOf",
    "TradeoffOf",
    "AlternativeTo",
]
TYPES: tuple[Type, ...] = get_args(Type)


class Table(BaseModel):
    """A table in the form of its file: weights of all ten types; raw names and their types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    weights: dict[Type, PositiveFloat]
    along: dict[str, Type] = {}
    against: dict[str, Type] = {}


@dataclass(frozen=True)
class Relations:
    """Weights (10,) fp64 in the order of ``TYPES``; raw name -> (type's index, against)."""

    weights: np.ndarray
    mapping: dict[str, tuple[int, bool]]

    @classmethod
    def read(cls, path: Path) -> "Relations":
        """Read a table: ``[weights]`` of all types, names under ``[along]`` and ``[against]``.

        A type's own name counts as under ``along``. Under ``against``, rank flows from target to
        source.

        Raises:
            InputError: missing file, no TOML, a type that is none of the ten, a weight that is
                missing or not above 0, a name that is in both sections.
        """
        table = read_table(path)
        missing = [name for name in TYPES if name not in table.weights]
        if missing:
            raise InputError(f"{path}: [weights] lacks {', '.join(missing)}")
        twice = table.along.keys() & table.against.keys()
        if twice:
            raise InputError(f"{path}: both [along] and [against] have {min(twice)!r}")
        mapping = {name: (index, False) for index, name in enumerate(TYPES)}
        for section, against in ((table.along, False), (table.against, True)):
            mapping |= {name: (TYPES.index(kind), against) for name, kind in section.items()}
        return cls(np.array([table.weights[name] for name in TYPES]), mapping)

    def look_up(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return each raw name's type index, and whether rank flows against its edges.

        Raises:
            InputError: a name is in no section of the table.
        """
        unknown = [name for name in names if name not in self.mapping]
        if unknown:
            some = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"{len(unknown)} unknown relations: {some}; map them to types in a table like "
                f"{DEFAULT_TABLE.name} and give it with --relations"
            )
        kinds = [self.mapping[name] for name in names]
        return np.array([kind for kind, _ in kinds]), np.array([against for _, against in kinds])


def read_table(path: Path) -> Table:
    """Read a TOML file as a ``Table``.

    Raises:
        InputError: missing file, no TOML, no such table.
    """
    try:
        return Table.model_validate(read_toml(path, "give a TOML table of relations"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}, not {first['input']!r:.200}") from None
