"""Settings of the data: which tokens, and how many of them in a step."""

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from errors import InputError
from settings.section import Section


class DataSettings(Section):
    """Which tokens, and how many of them in a step."""

    data: Path | None = Field(
        default=None, description="folder of token shards, from python -m data"
    )
    tokenizer: Path | None = Field(
        default=None, description="SentencePiece model; by default the one in the data folder"
    )
    train_batch_tokens: PositiveInt = Field(
        default=786_432, description="tokens a step, over all ranks"
    )
    train_seq_len: PositiveInt = Field(default=2048, description="tokens a window")
    micro_batch_tokens: PositiveInt = Field(
        default=98_304, description="most tokens a rank takes at once; gradients accumulate beyond"
    )

    @model_validator(mode="after")
    def check_windows(self) -> Self:
        """Refuse a batch that is not cut into whole windows."""
        if self.train_batch_tokens % self.train_seq_len:
            raise ValueError(
                f"train_batch_tokens {self.train_batch_tokens} is no multiple of "
                f"train_seq_len {self.train_seq_len}"
            )
        return self

    def accumulation(self, world_size: int) -> int:
        """Return the micro-batches that a rank takes in a step.

        Raises:
            InputError: the batch's windows cannot be split evenly over the ranks.
        """
        windows = self.train_batch_tokens // self.train_seq_len
        if windows % world_size:
            step = world_size * self.train_seq_len
            nearest = max(step, round(self.train_batch_tokens / step) * step)
            raise InputError(
                f"train_batch_tokens {self.train_batch_tokens} is {windows} windows of "
                f"{self.train_seq_len}, which {world_size} ranks cannot share; try {nearest}"
            )
        rows = windows // world_size
        most = max(1, self.micro_batch_tokens // self.train_seq_len)
        return next(
            parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= most
        )
