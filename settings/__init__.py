"""Every setting once: type, unit, range, reason; one file a section. Imports no torch.

Names are flat: a setting ``num_layers`` is ``--num-layers`` on the command line, ``num_layers`` in
TOML and ``MURMURATION_NUM_LAYERS`` in the environment. `settings.load` reads these sources.
"""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, model_validator

from model.config import Architecture
from settings.artifact import ArtifactSettings
from settings.data import DataSettings
from settings.evaluation import EvaluationSettings
from settings.loss import LossSettings
from settings.optimizer import OptimizerSettings
from settings.run import RunSettings
from settings.schedule import ScheduleSettings
from settings.section import Section
from settings.swarm import SwarmSettings
from settings.ttt import TttSettings

SECTIONS: dict[str, type[Section] | type[Architecture]] = {
    "Run": RunSettings,
    "Data": DataSettings,
    "Network": Architecture,
    "Schedule": ScheduleSettings,
    "Optimizer": OptimizerSettings,
    "Loss": LossSettings,
    "Swarm": SwarmSettings,
    "Evaluation": EvaluationSettings,
    "Test-time training": TttSettings,
    "Artifact": ArtifactSettings,
}
MOST = 1 << 40  # no tensor, and no run, has as many of anything
LARGEST = 1e30  # fp32 ends at 3e38, which a product of two settings must not reach


class Settings(
    Architecture,
    RunSettings,
    DataSettings,
    ScheduleSettings,
    OptimizerSettings,
    LossSettings,
    SwarmSettings,
    EvaluationSettings,
    TttSettings,
    ArtifactSettings,
):
    """Train a small GPT, export it as an artifact of at most 16 MB, score it in bits per byte."""

    def architecture(self) -> Architecture:
        """Return the network's part of the settings."""
        return Architecture(**{name: getattr(self, name) for name in Architecture.model_fields})

    @property
    def asks_tokenizer(self) -> bool:
        """Whether the vocabulary is yet to come from the data's tokenizer."""
        has_one = self.data is not None or self.tokenizer is not None
        return has_one and "vocab_size" not in self.model_fields_set

    @property
    def skips_noise(self) -> bool:
        """Whether windows of noise are replaced; a yoked run, without feedback, does not judge."""
        if self.skip_noise is not None:
            return self.skip_noise
        return self.swarm and self.swarm_agents == "frontier" and self.swarm_yoke is None

    def vocabulary(self) -> tuple[int | None, int | None]:
        """Return vocab_size and bos_id; None for what no source of settings names."""
        given = self.model_fields_set
        size = self.vocab_size if "vocab_size" in given else None
        return size, self.bos_id if "bos_id" in given else None

    def with_vocabulary(self, vocab_size: int, bos_id: int) -> Self:
        """Return the settings with a tokenizer's vocabulary."""
        return self.model_copy(update={"vocab_size": vocab_size, "bos_id": bos_id})

    @model_validator(mode="after")
    def check_numbers(self) -> Self:
        """Refuse numbers that no tensor could have as a size, or as a value in fp32."""
        for name, value in self:
            for number in numbers_in(value):
                most = LARGEST if isinstance(number, float) else MOST
                if abs(number) > most and name != "seed":
                    raise ValueError(f"{name} {number}: give {most} or less")
        if self.mlp_dim > MOST:
            raise ValueError(f"mlp_mult {self.mlp_mult}: give {MOST / self.model_dim} or less")
        return self

    @model_validator(mode="after")
    def check_run(self) -> Self:
        """Refuse combinations across sections that no run can have."""
        if self.backend == "kernels":
            self.check_kernels()
        if self.ttt_enabled:
            self.check_ttt(self.eval_seq_len)
        if self.export_weights == "averaged" and self.averaging == "none":
            raise ValueError("export_weights averaged needs averaging ema or lawa")
        if self.lean and self.averaging != "ema":
            raise ValueError("lean needs averaging ema")
        if self.readout and (self.averaging, self.export_weights) != ("ema", "averaged"):
            raise ValueError("readout needs averaging ema and export_weights averaged")
        if self.run_id and self.run_dir:
            raise ValueError("run_dir is the folder, and run_id its name in runs/; give one")
        if self.edges and not self.num_edges:
            raise ValueError("edges are read only if bigram_rows is not hash; give both or neither")
        return self

    def check_kernels(self) -> None:
        """Refuse shapes that the Triton operations do not take."""
        if self.head_dim not in (16, 32, 64, 128):
            raise ValueError(f"backend kernels has no head dim {self.head_dim}: 16, 32, 64 or 128")
        if self.rope_dims & (self.rope_dims - 1):
            raise ValueError(
                f"backend kernels needs rope_dims a power of two, not {self.rope_dims}"
            )
        if self.model_dim % 8 or self.mlp_dim % 8:
            raise ValueError(
                f"backend kernels needs model_dim {self.model_dim} and the MLP's width "
                f"{self.mlp_dim} to be multiples of 8"
            )


def numbers_in(value: Any) -> Iterator[float]:
    """Yield the numbers of a setting: itself, or those of its list or stages."""
    if isinstance(value, BaseModel):
        value = [each for _, each in value]
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, (int, float)):
        yield value
