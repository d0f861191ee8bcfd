"""Settings of the evaluation: windows, how much of the validation split, and texts to read."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from settings.section import Section


class EvaluationSettings(Section):
    """Windows, how much of the validation split, and texts to read."""

    eval_seq_len: PositiveInt = Field(default=2048, description="window of the evaluation")
    eval_stride: NonNegativeInt = Field(
        default=64, description="tokens that each sliding window scores; 0: no sliding evaluation"
    )
    sliding_weights: Literal["roundtrip", "all"] = Field(
        default="roundtrip", description="weights that get the sliding evaluation, which is slow"
    )
    val_batch_size: PositiveInt = Field(
        default=262_144, description="tokens a rank evaluates at once"
    )
    val_loss_every: NonNegativeInt = Field(
        default=0, description="steps between validations, off the clock; 0: val_points"
    )
    val_points: NonNegativeInt = Field(
        default=10,
        description="validations on the way, off the clock, of as many tokens as all together take "
        "1 % of the steps' time; 0: only at the end",
    )
    val_max_tokens: NonNegativeInt = Field(
        default=0, description="number of first tokens that are scored; 0: all"
    )

    sample_every: NonNegativeInt = Field(
        default=0, description="steps between texts that the network writes, off the clock; 0: none"
    )
    sample_prompt: str = Field(
        default="", description="what these texts begin with; by default they begin a document"
    )
    sample_tokens: PositiveInt = Field(default=64, le=65_536, description="tokens of such a text")

    @model_validator(mode="after")
    def check_stride(self) -> Self:
        """Refuse windows that would leave tokens out."""
        if self.eval_stride > self.eval_seq_len:
            raise ValueError(
                f"eval_stride {self.eval_stride} exceeds eval_seq_len {self.eval_seq_len}"
            )
        return self
