"""Settings of the artifact: which weights, in how many bits, in how many bytes."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from settings.section import Bits, Section


class ArtifactSettings(Section):
    """Which weights, in how many bits, in how many bytes."""

    export_weights: Literal["averaged", "raw"] = Field(
        default="averaged", description="which weights become the artifact"
    )
    attention_bits: Bits = Field(default=6, description="bits of the attention banks")
    mlp_bits: Bits = Field(default=6, description="bits of the MLP banks")
    embed_bits: Bits = Field(default=8, description="bits of the embedding and the head")
    table_bits: Bits = Field(default=8, description="bits of the other large tables")
    attention_clip: NonNegativeFloat = Field(
        default=0.0,
        description="standard deviations of a row that its codes reach, in the attention banks; "
        "0: its largest magnitude, as QAT has it",
    )
    mlp_clip: NonNegativeFloat = Field(default=0.0, description="the same of the MLP banks")
    embed_clip: NonNegativeFloat = Field(default=0.0, description="of the embedding and the head")
    table_clip: NonNegativeFloat = Field(default=20.0, description="of the other large tables")
    quant_min_step: NonNegativeFloat = Field(
        default=1 / 31,
        description="floor of a row's quantisation step: coarser, but it compresses further",
    )
    calibration_tokens: NonNegativeInt = Field(
        default=786_432, description="training tokens that GPTQ sees; 0: round to nearest"
    )
    gptq_damping: PositiveFloat = Field(
        default=0.01, description="share of its Hessians' mean diagonal that GPTQ adds to them"
    )
    lqer_rank: NonNegativeInt = Field(
        default=0, description="rank of the correction of the matrices with the largest errors"
    )
    lqer_matrices: NonNegativeInt = Field(
        default=3, description="how many matrices are corrected, where lqer_rank is not 0"
    )
    size_limit: PositiveInt = Field(default=16_000_000, description="bytes of code + artifact")
