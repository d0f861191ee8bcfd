"""The stages of a run: what a step computes, by the fraction of the run that is over."""

import difflib
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from model.config import Exact
from reading.structured import parse_toml
from settings.section import FROZEN, Precision


class Stage(Exact):
    """One stage. A field that is None has the value of the run's own setting."""

    model_config = FROZEN

    until: Annotated[float, Field(gt=0, le=1)] = Field(
        description="fraction of the clock, or of the iterations, at which the stage ends"
    )
    lr_factor: PositiveFloat | None = None
    train_batch_tokens: PositiveInt | None = None
    train_seq_len: PositiveInt | None = None
    loops: NonNegativeInt | None = None
    window: NonNegativeInt | None = None
    near_window: NonNegativeInt | None = None
    documents: bool | None = None
    mtp_num_heads: NonNegativeInt | None = None
    precision: Precision | None = None

    @model_validator(mode="before")
    @classmethod
    def check_names(cls, given: Any) -> Any:
        """Refuse a field that no stage has, with the nearest that one has."""
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                near = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"one has {', '.join(cls.model_fields)}"
                )
                raise ValueError(f"a stage has no field {name}; {hint}")
        return given

    @model_serializer(mode="wrap")
    def named(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Return the fields that the stage names, because TOML has no None."""
        return {name: value for name, value in serialise(self).items() if value is not None}


def or_one(stages: list[Stage]) -> list[Stage]:
    """Return the stages; if there are none, one that names nothing."""
    return stages or [Stage(until=1.0)]


def read_stages(value: object) -> object:
    """Return the list that a text of TOML describes, as command line and environment have it.

    Raises:
        ValueError: the text is no list of TOML.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_toml(f"stages = {value.strip() or '[]'}".encode())["stages"]
    except ValueError as error:
        raise ValueError(
            f"stages are a TOML list, as [{{until=0.35, loops=0}}, {{until=1.0}}], but {error}"
        ) from None


def check_order(stages: list[Stage]) -> list[Stage]:
    """Refuse stages that do not follow each other to the end of the run."""
    ends = [stage.until for stage in stages]
    if any(later <= earlier for earlier, later in pairwise(ends)):
        raise ValueError(f"stages must end one after the other, but end at {ends}")
    if ends and ends[-1] != 1:
        raise ValueError(f"the last stage must have until = 1.0, but it ends at {ends[-1]}")
    return stages
