"""Settings of the data: which tokens, and how many of them in a step."""

from pathlib import Path

from pydantic import Field, PositiveInt

from settings.section import Section


class DataSettings(Section):
    """Which tokens, and how many of them in a step."""

    data: Path | None = Field(
        default=None, description="folder of token shards, from python -m data"
    )
    tokenizer: Path | None = Field(
        default=None,
        description="SentencePiece model, or gpt2; by default the one in the data folder",
    )
    edges: Path | None = Field(
        default=None,
        description="pairs that bigram_rows needs, from python -m knowledge edges; by default "
        "BIGRAM_ROWS.edges in the data folder",
    )
    skip_noise: bool | None = Field(
        default=None,
        description="a window of noise is replaced by text of a later pass; not given: where "
        "agents of the set frontier steer",
    )
    train_batch_tokens: PositiveInt = Field(
        default=786_432, description="tokens a step, over all ranks"
    )
    train_seq_len: PositiveInt = Field(default=2048, description="tokens a window")
    micro_batch_tokens: PositiveInt = Field(
        default=98_304, description="most tokens a rank takes at once; gradients accumulate beyond"
    )
