"""Settings of the schedule: how long a run trains, and what changes on the way."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
)

from settings.section import Fraction, Section
from settings.stages import Stage, check_order, read_stages


class ScheduleSettings(Section):
    """How long a run trains, and what changes on the way."""

    wallclock: NonNegativeFloat = Field(
        default=600.0,
        description="seconds of training after warm-up; 0: no limit, iterations count",
    )
    reference_clock: Path | None = Field(
        default=None,
        description="table of python -m bench clock; wallclock then counts its milliseconds a "
        "step, alike on every card; such a run cannot be submitted",
    )
    iterations: PositiveInt = Field(default=20_000, description="largest number of steps")
    warmup_steps: NonNegativeInt = Field(
        default=20, le=10_000, description="steps before the clock starts; they leave no trace"
    )
    warmdown_iters: NonNegativeInt = Field(
        default=3700,
        description="steps at the end in which learning rates fall to 0, as time under a clock; at "
        "most 60 % of the run",
    )
    warmdown_share: Fraction = Field(
        default=0.0,
        description="warm-down as a fraction of the clock or of the iterations; 0: warmdown_iters",
    )
    min_lr: Fraction = Field(
        default=0.0, description="least scale of the learning rates in the warm-down"
    )
    late_qat_threshold: Fraction = Field(
        default=0.15,
        description="fake int6 weights once the learning rate's scale, before min_lr, is below "
        "this; 0: never",
    )
    stages: Annotated[list[Stage], BeforeValidator(read_stages), AfterValidator(check_order)] = (
        Field(
            default=[],
            description="what a step computes, by the fraction of the run: [{until=0.35, loops=0}, "
            "{until=1.0}]; empty: one stage, with the values of the other settings",
        )
    )
