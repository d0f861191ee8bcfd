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
        description="range of a row's codes in its standard deviations, in the attention banks; "
        "0: the row's largest magnitude, as in QAT",
    )
    mlp_clip: NonNegativeFloat = Field(
        default=0.0, description="as attention_clip, in the MLP banks"
    )
    embed_clip: NonNegativeFloat = Field(
        default=0.0, description="as attention_clip, in embedding and head"
    )
    table_clip: NonNegativeFloat = Field(
        default=20.0, description="as attention_clip, in the other large tables"
    )
    quant_min_step: NonNegativeFloat = Field(
        default=1 / 31,
        description="smallest quantisation step of a row; larger steps compress better",
    )
    quant_by_loss: bool = Field(
        default=False,
        description="let the loss choose the steps of rows and columns that GPTQ codes, in place "
        "of clips; bits only bound the codes, so 8 suit it",
    )
    quant_trellis: bool = Field(
        default=False,
        description="let GPTQ choose codes of two interleaved grids by a trellis: less error at "
        "equal bytes",
    )
    calibration_tokens: NonNegativeInt = Field(
        default=786_432,
        le=1 << 32,
        description="training tokens that GPTQ sees; 0: round to nearest",
    )
    gptq_damping: PositiveFloat = Field(
        default=0.01, description="fraction of a Hessian's mean diagonal that GPTQ adds to it"
    )
    lqer_rank: NonNegativeInt = Field(
        default=0, description="rank of the correction of the matrices with the largest errors"
    )
    lqer_matrices: NonNegativeInt = Field(
        default=3, description="number of matrices that are corrected when lqer_rank is not 0"
    )
    size_limit: PositiveInt = Field(default=16_000_000, description="bytes of code + artifact")
