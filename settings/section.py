"""What the sections of settings share: their base class and their kinds of values."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt

from model.config import split_commas

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Passes = Annotated[int, Field(ge=1, le=1000)]
Bits = Annotated[int, Field(ge=2, le=8)]
Confidence = Fraction
Precision = Literal["native", "fp8"]
AgentSet = Literal["seed", "frontier"]
NameList = Annotated[list[str], BeforeValidator(split_commas)]
CountList = Annotated[list[NonNegativeInt], BeforeValidator(split_commas)]
FROZEN = ConfigDict(
    extra="forbid",
    protected_namespaces=(),
    allow_inf_nan=False,
    frozen=True,
    defer_build=True,  # --help reads the declarations and needs no validator
)


class Section(BaseModel):
    """Settings of one subject: a mixin of `settings.Settings`, whose namespace is flat."""

    model_config = FROZEN
