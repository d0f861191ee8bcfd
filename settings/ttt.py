"""Settings of test-time training (TTT): which method, and its steps."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from model.config import split_commas
from settings.section import NameList, Passes, Section, Share


class TttSettings(Section):
    """Which method, and its steps."""

    ttt_enabled: bool = Field(
        default=False, description="score the artifact once more with test-time training"
    )
    ttt_method: Literal["sgd", "lora", "both"] = Field(
        default="sgd",
        description="sgd: trains all weights, chunk after chunk; lora: trains adapters, which are "
        "reset after each document; both: scores a chunk's documents by lora, then trains by sgd",
    )
    ttt_chunk_tokens: PositiveInt = Field(
        default=32_768, description="sgd, both: tokens scored, then learned"
    )
    ttt_epochs: Passes = Field(default=3, description="sgd, both: passes over a scored chunk")
    ttt_batch_seqs: PositiveInt = Field(
        default=32, description="sgd, both: windows a step, over all ranks"
    )
    ttt_lr: NonNegativeFloat = Field(
        default=0.002, description="sgd: first learning rate; it falls to 0 along a cosine"
    )
    ttt_momentum: Share = Field(default=0.9, description="momentum of SGD, in either method")
    ttt_grad_clip: NonNegativeFloat = Field(
        default=1.0, description="sgd: global norm that gradients are clipped to; 0: no clip"
    )
    ttt_freeze_blocks: NonNegativeInt = Field(
        default=0, description="sgd: number of first layers that are frozen"
    )
    ttt_freeze: NameList = Field(
        default=[], description="sgd: frozen parameters, such as tok_emb,bigram_table"
    )
    ttt_lora_rank: PositiveInt = Field(default=8, description="lora: rank of each adapter")
    ttt_lora_alpha: NonNegativeFloat = Field(
        default=8.0, description="lora: adapters are scaled by alpha over rank"
    )
    ttt_lora_matrices: Annotated[
        list[Literal["q", "k", "v", "o", "attention", "mlp", "head"]],
        BeforeValidator(split_commas),
        Field(min_length=1),
    ] = Field(
        default=["k", "attention", "mlp", "head"],
        description="lora: matrices of each layer with adapters; attention, mlp: whole branches, "
        "beside them; head: input of the output head",
    )
    ttt_lora_optimizer: Literal["adam", "sgd"] = Field(
        default="adam", description="lora: optimizer of the adapters"
    )
    ttt_lora_lr: NonNegativeFloat = Field(default=0.01, description="lora: learning rate")
    ttt_lora_weight_decay: NonNegativeFloat = Field(
        default=0.0, description="lora: decay of the adapters, times the learning rate"
    )
    ttt_lora_epochs: Passes = Field(default=1, description="lora: steps on a scored chunk")
    ttt_lora_chunk: PositiveInt = Field(
        default=32, description="lora: tokens of a document scored, then learned, at its beginning"
    )
    ttt_lora_chunk_most: PositiveInt = Field(
        default=128, description="lora: the same further on: chunks double after 16 of a size"
    )
    ttt_lora_documents: PositiveInt = Field(default=64, description="lora: documents at once")
    ttt_tilt: NonNegativeFloat = Field(
        default=0.0,
        description="both: strength with which scores are tilted to tokens that nearly always "
        "followed the same ones in earlier chunks; 0: not at all",
    )

    def check_ttt(self, length: int) -> None:
        """Refuse test-time training that is not cut into whole windows of ``length`` tokens."""
        chunk = self.ttt_chunk_tokens
        if self.ttt_method != "sgd" and self.ttt_lora_chunk > length:
            raise ValueError(
                f"ttt_lora_chunk {self.ttt_lora_chunk} exceeds eval_seq_len {length}: a chunk is "
                "scored in one window"
            )
        if self.ttt_method != "lora" and chunk % length:
            raise ValueError(f"ttt_chunk_tokens {chunk} is no multiple of eval_seq_len {length}")
        if self.ttt_tilt and self.ttt_method != "both":
            raise ValueError("ttt_tilt needs ttt_method both")
        windows = chunk // length
        if self.ttt_method != "lora" and windows % min(windows, self.ttt_batch_seqs):
            raise ValueError(
                f"a TTT chunk is {windows} windows, which ttt_batch_seqs {self.ttt_batch_seqs} "
                "does not divide"
            )
