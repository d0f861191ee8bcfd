"""Settings of the run: where it starts from, what it runs on, what it leaves."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from settings.section import Section


class RunSettings(Section):
    """Where it starts from, what it runs on, what it leaves."""

    preset: str = Field(
        default="seed",
        description="file in presets/ to start from: seed, sprint, frontier, frontier-sprint, tiny",
    )
    config: Path | None = Field(default=None, description="TOML file of settings, over the preset")
    run_dir: Path | None = Field(
        default=None, description="the run's folder; by default runs/<date>-..."
    )
    run_id: str = Field(
        default="",
        description="the folder's name in runs/, in place of date, preset and seed; a dash stands "
        "for characters other than letters, digits, dots and _, and a number follows a name in use",
    )
    track: Literal["none", "tensorboard", "wandb"] = Field(
        default="none", description="tracker that also gets the log; needs its package"
    )
    resume: Path | None = Field(
        default=None, description="run folder to continue, with the settings it was started with"
    )
    seed: NonNegativeInt = Field(
        default=1337, lt=2**63, description="seed of initial weights and data order"
    )
    backend: Literal["auto", "reference", "compiled", "kernels"] = Field(
        default="auto",
        description="reference: eager PyTorch; compiled: under torch.compile; kernels: Triton, for "
        "Hopper GPUs; auto: kernels where they fit GPU and network, else compiled on CUDA, "
        "reference on a CPU",
    )
    attention_backend: Literal["auto", "kernels", "cudnn", "flash", "sdpa"] = Field(
        default="auto",
        description="whose attention: kernels: ours; flash: the newest FlashAttention (4, 3, 2) "
        "installed; sdpa: what PyTorch picks; auto: kernels with backend kernels, else cudnn on "
        "CUDA, sdpa on a CPU",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="device; auto: cuda if there is a GPU"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="type of activations and compute copies; auto: bfloat16 on CUDA"
    )
    checkpoint_minutes: NonNegativeFloat = Field(
        default=10.0, description="minutes between checkpoints; 0: only at the end"
    )
    train_log_every: PositiveInt = Field(default=10, description="steps between lines of the log")
