"""Settings of the training loss: what the MTP heads and the knowledge graph add."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat

from settings.section import Section


class LossSettings(Section):
    """What the MTP heads and the knowledge graph add."""

    mtp_loss_weight: NonNegativeFloat = Field(
        default=0.1, description="weight of the MTP heads' mean loss"
    )
    mtp_targets: Annotated[int, Field(ge=0, le=2)] = Field(
        default=0,
        description="targets after the next that the output head predicts too, instead of MTP "
        "heads; their weights 1/2 and 1/4 fall to 0 during the run",
    )
    kg_scores: str = Field(
        default="",
        description="token scores of a knowledge graph: a file of python -m knowledge, or "
        "wordnet, which is included; empty: none",
    )
    kg_init: NonNegativeFloat = Field(
        default=0.1, description="initial embeddings are multiplied by 1 + this * score"
    )
    kg_loss_weight: NonNegativeFloat = Field(
        default=0.5,
        description="target tokens weigh 1 + this * score in the training loss, scaled to a mean "
        "of 1; 0: all weigh the same",
    )
