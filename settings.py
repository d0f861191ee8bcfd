"""Every setting once: type, unit, range, reason. Imports no torch, so that ``--help`` is quick.

From strongest to weakest: command line, environment, ``--config`` TOML file, preset, the defaults
here. A setting ``num_layers`` is ``--num-layers`` on the command line, ``num_layers`` in TOML and
``MURMURATION_NUM_LAYERS`` in the environment; settings that parameter-golf's scripts know are also
read by the names those use (``NUM_LAYERS``, ``MAX_WALLCLOCK_SECONDS``, ...).
"""

import argparse
import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from errors import InputError
from model.config import Architecture, split_commas

PRESETS = Path(__file__).parent / "presets"
ENV_PREFIX = "MURMURATION_"
Share = Annotated[float, Field(ge=0, lt=1)]
Bits = Annotated[int, Field(ge=2, le=8)]
Confidence = Annotated[float, Field(ge=0, le=1)]
NameList = Annotated[list[str], BeforeValidator(split_commas)]

# Names of parameter-golf's scripts that differ from ours, and those that we share, in upper case.
CONTEST_ALIASES = {
    "DATA_PATH": "data",
    "TOKENIZER_PATH": "tokenizer",
    "MAX_WALLCLOCK_SECONDS": "wallclock",
}
CONTEST_NAMES = """
    seed iterations warmdown_iters warmup_steps train_batch_tokens train_seq_len eval_seq_len
    eval_stride val_batch_size val_loss_every train_log_every vocab_size num_layers num_kv_heads
    model_dim num_heads mlp_mult tie_embeddings rope_base rope_dims logit_softcap qk_gain_init
    embed_lr head_lr tied_embed_lr tied_embed_init_std matrix_lr scalar_lr muon_momentum
    muon_backend_steps muon_momentum_warmup_start muon_momentum_warmup_steps muon_wd adam_wd
    beta1 beta2 adam_eps grad_clip_norm mtp_num_heads mtp_loss_weight lawa_k lawa_freq
    bigram_vocab_size bigram_dim xsa_last_n ln_scale late_qat_threshold ve_enabled ve_dim
    ve_layers gated_attention value_residual ttt_enabled ttt_lr ttt_epochs ttt_chunk_tokens
    ttt_momentum ttt_batch_seqs ttt_grad_clip ttt_freeze_blocks ttt_lora_rank ttt_lora_lr
""".split()  # noqa: SIM905


class Settings(Architecture, BaseSettings):
    """Train a small GPT, export it as an artifact of at most 16 MB, score it in bits per byte."""

    model_config = SettingsConfigDict(
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        cli_prog_name="train.py",
    )

    preset: str = Field(
        default="seed", description="file in presets/ to start from: seed, sprint, tiny"
    )
    config: Path | None = Field(default=None, description="TOML file of settings, over the preset")
    data: Path | None = Field(
        default=None, description="folder of token shards, from python -m data"
    )
    tokenizer: Path | None = Field(
        default=None, description="SentencePiece model; by default the one in the data folder"
    )
    run_dir: Path | None = Field(
        default=None, description="the run's folder; by default runs/<date>-..."
    )
    resume: Path | None = Field(
        default=None, description="run folder to continue, with the settings it was started with"
    )
    seed: NonNegativeInt = Field(default=1337, description="of weights and data order")
    backend: Literal["auto", "reference", "compiled", "kernels"] = Field(
        default="auto",
        description="reference: eager PyTorch; compiled: under torch.compile; kernels: Triton, for "
        "Hopper GPUs; auto: kernels where they fit GPU and network, else compiled on CUDA, "
        "reference on a CPU",
    )
    attention_backend: Literal["auto", "kernels", "cudnn", "flash", "sdpa"] = Field(
        default="auto",
        description="whose attention: kernels: ours; flash: FlashAttention-3, else -2, if "
        "installed; sdpa: what PyTorch picks; auto: kernels with backend kernels, else cudnn on "
        "CUDA, sdpa on a CPU",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="auto: cuda where there is"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="of activations and compute copies; auto: bfloat16 on CUDA"
    )

    wallclock: NonNegativeFloat = Field(
        default=600.0,
        description="seconds of training, from after warm-up; 0: no limit, count iterations",
    )
    iterations: PositiveInt = Field(
        default=20_000, description="most steps, whatever the clock says"
    )
    warmup_steps: NonNegativeInt = Field(
        default=20, description="steps before the clock starts; they leave no trace"
    )
    warmdown_iters: NonNegativeInt = Field(
        default=3700,
        description="steps' worth of time at the end in which learning rates fall to 0",
    )
    train_batch_tokens: PositiveInt = Field(
        default=786_432, description="tokens a step, over all ranks"
    )
    train_seq_len: PositiveInt = Field(default=2048, description="tokens a window")
    micro_batch_tokens: PositiveInt = Field(
        default=98_304, description="most tokens a rank takes at once; gradients accumulate beyond"
    )

    matrix_lr: NonNegativeFloat = Field(
        default=0.027, description="Muon's learning rate, for the banks"
    )
    tied_embed_lr: NonNegativeFloat = Field(
        default=0.035, description="AdamW, tied embedding and tables"
    )
    embed_lr: NonNegativeFloat = Field(
        default=0.6, description="AdamW, tables where the head is untied"
    )
    scalar_lr: NonNegativeFloat = Field(
        default=0.025, description="AdamW, vectors and small matrices"
    )
    head_lr: NonNegativeFloat = Field(default=0.008, description="AdamW, untied head and MTP heads")
    muon_momentum: Share = Field(default=0.99, description="Nesterov momentum after its warm-up")
    muon_momentum_warmup_start: Share = Field(default=0.92, description="momentum at step 0")
    muon_momentum_warmup_steps: NonNegativeInt = Field(
        default=1500, description="steps between the two"
    )
    muon_backend_steps: PositiveInt = Field(default=5, description="Newton-Schulz iterations")
    muon_coefficients: Literal["classic", "polar_express"] = Field(
        default="classic",
        description="of the Newton-Schulz iterations: Keller Jordan's; or Polar Express, which "
        "brings small singular values to one as well",
    )
    muon_row_norm: bool = Field(
        default=False, description="rows of length one before the iterations (MuonEq)"
    )
    muon_wd: NonNegativeFloat = Field(
        default=0.04, description="decoupled weight decay of the banks"
    )
    adam_wd: NonNegativeFloat = Field(
        default=0.04, description="decoupled weight decay of the rest"
    )
    beta1: Share = Field(default=0.9, description="AdamW's first moment")
    beta2: Share = Field(default=0.95, description="AdamW's second moment")
    adam_eps: PositiveFloat = Field(default=1e-8, description="AdamW's epsilon")
    grad_clip_norm: NonNegativeFloat = Field(
        default=0.3,
        description="global norm that gradients are clipped to, after reduction; 0: no clip",
    )
    mtp_loss_weight: NonNegativeFloat = Field(
        default=0.1, description="weight of the MTP heads' mean loss"
    )
    kg_scores: str = Field(
        default="",
        description="token scores of a knowledge graph, a file of python -m knowledge or "
        "wordnet for those that come along; empty: none",
    )
    kg_init: NonNegativeFloat = Field(
        default=0.1, description="initial embeddings are multiplied by 1 + this * score"
    )
    kg_loss_weight: NonNegativeFloat = Field(
        default=0.5,
        description="target tokens weigh 1 + this * score in the training loss, their mean made 1; "
        "0: all alike, throughout",
    )
    late_qat_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.15,
        description="int6-faked weights once the learning rate's scale is under this; 0: never",
    )
    averaging: Literal["ema", "lawa", "none"] = Field(
        default="ema", description="of weights: exponential, or mean of the latest snapshots"
    )
    ema_decay: Share = Field(default=0.997, description="decay a step of the exponential average")
    lawa_k: PositiveInt = Field(default=10, description="snapshots that LAWA averages")
    lawa_freq: PositiveInt = Field(default=100, description="steps between LAWA's snapshots")

    eval_seq_len: PositiveInt = Field(default=2048, description="window of the evaluation")
    eval_stride: NonNegativeInt = Field(
        default=64, description="tokens that each sliding window scores; 0: no sliding evaluation"
    )
    sliding_weights: Literal["roundtrip", "all"] = Field(
        default="roundtrip", description="which weights get the (slow) sliding evaluation"
    )
    val_batch_size: PositiveInt = Field(
        default=262_144, description="tokens a rank evaluates at once"
    )
    val_loss_every: NonNegativeInt = Field(
        default=0, description="steps between validations, off the clock; 0: only at the end"
    )
    val_max_tokens: NonNegativeInt = Field(
        default=0, description="validate on the first so many; 0: all"
    )
    ttt_enabled: bool = Field(
        default=False, description="score the artifact once more with test-time training"
    )
    ttt_method: Literal["sgd", "lora"] = Field(
        default="sgd",
        description="sgd: all weights, a chunk of the split after the other; lora: adapters of "
        "each document's own, forgotten after it",
    )
    ttt_chunk_tokens: PositiveInt = Field(
        default=32_768, description="sgd: tokens scored, then learned"
    )
    ttt_epochs: PositiveInt = Field(default=3, description="sgd: passes over a scored chunk")
    ttt_batch_seqs: PositiveInt = Field(
        default=32, description="sgd: windows a step, over all ranks"
    )
    ttt_lr: NonNegativeFloat = Field(
        default=0.002, description="sgd: first learning rate, to 0 by a cosine over the chunks"
    )
    ttt_momentum: Share = Field(default=0.9, description="of the SGD of either method")
    ttt_grad_clip: NonNegativeFloat = Field(
        default=1.0, description="sgd: global norm that gradients are clipped to; 0: no clip"
    )
    ttt_freeze_blocks: NonNegativeInt = Field(
        default=0, description="sgd: first layers that stay as they are"
    )
    ttt_freeze: NameList = Field(
        default=[], description="sgd: parameters that stay as they are, as tok_emb,bigram_table"
    )
    ttt_lora_rank: PositiveInt = Field(default=8, description="lora: of each adapter")
    ttt_lora_matrices: Annotated[
        list[Literal["q", "k", "v", "o", "head"]],
        BeforeValidator(split_commas),
        Field(min_length=1),
    ] = Field(
        default=["q", "v", "head"],
        description="lora: what has adapters, of each layer; head: what the output head reads",
    )
    ttt_lora_optimizer: Literal["adam", "sgd"] = Field(
        default="adam", description="lora: of the adapters"
    )
    ttt_lora_lr: NonNegativeFloat = Field(default=0.01, description="lora: learning rate")
    ttt_lora_epochs: PositiveInt = Field(default=1, description="lora: steps on a scored chunk")
    ttt_lora_chunk: PositiveInt = Field(
        default=256, description="lora: tokens of a document scored, then learned"
    )
    ttt_lora_documents: PositiveInt = Field(default=64, description="lora: documents at once")
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
    checkpoint_minutes: NonNegativeFloat = Field(
        default=10.0, description="minutes between checkpoints; 0: only when interrupted"
    )
    train_log_every: PositiveInt = Field(default=10, description="steps between lines of the log")

    swarm: bool = Field(default=True, description="agents steer the run's levers")
    swarm_every: PositiveInt = Field(default=80, description="steps between the agents' cycles")
    agents_off: Annotated[list[str], BeforeValidator(split_commas)] = Field(
        default=[], description="names of agents that stay out of it: qat, kg, health, mtp, lr"
    )
    swarm_alone: Confidence = Field(
        default=0.85, description="confidence at which one agent's proposal needs no second"
    )
    swarm_objection: Confidence = Field(
        default=0.6, description="confidence of an objection that stops one agent alone"
    )
    swarm_withdrawn: Confidence = Field(
        default=0.3, description="confidence below which an agent withdraws its proposal"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load_settings`` merged, and the command line that pydantic-settings puts
        before it: an unprefixed DEVICE or DATA in somebody's environment means nothing here."""
        return (init_settings,)

    def architecture(self) -> Architecture:
        """The network's part of the settings."""
        return Architecture(**{name: getattr(self, name) for name in Architecture.model_fields})

    @model_validator(mode="after")
    def check_run(self) -> Self:
        """Refuse combinations that no run can have."""
        if self.train_batch_tokens % self.train_seq_len:
            raise ValueError(
                f"train_batch_tokens {self.train_batch_tokens} is no multiple of "
                f"train_seq_len {self.train_seq_len}"
            )
        if self.eval_stride > self.eval_seq_len:
            raise ValueError(
                f"eval_stride {self.eval_stride} exceeds eval_seq_len {self.eval_seq_len}"
            )
        if self.mtp_num_heads >= self.train_seq_len:
            raise ValueError(f"{self.mtp_num_heads} MTP heads need a longer train_seq_len")
        if self.backend == "kernels":
            self.check_kernels()
        if self.ttt_enabled:
            self.check_ttt()
        if self.export_weights == "averaged" and self.averaging == "none":
            raise ValueError("export_weights averaged needs averaging ema or lawa")
        return self

    def check_ttt(self) -> None:
        """Refuse test-time training that cannot be cut into whole windows."""
        chunk, length = self.ttt_chunk_tokens, self.eval_seq_len
        if self.ttt_method == "lora" and self.ttt_lora_chunk > length:
            raise ValueError(
                f"ttt_lora_chunk {self.ttt_lora_chunk} exceeds eval_seq_len {length}: a chunk is "
                "scored in one window"
            )
        if self.ttt_method == "sgd" and chunk % length:
            raise ValueError(f"ttt_chunk_tokens {chunk} is no multiple of eval_seq_len {length}")
        windows = chunk // length
        if self.ttt_method == "sgd" and windows % min(windows, self.ttt_batch_seqs):
            raise ValueError(
                f"a TTT chunk is {windows} windows, which ttt_batch_seqs {self.ttt_batch_seqs} "
                "does not divide"
            )

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

    def accumulation(self, world_size: int) -> int:
        """Micro-batches a rank takes in a step.

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


def load_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of a run, from all sources, checked.

    Raises:
        InputError: unknown or impossible setting, missing preset or file; one line.
        SystemExit: after ``--help``.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--preset", "--config", "--resume"):
        first.add_argument(option)
    chosen, _ = first.parse_known_args(arguments)
    from_environment = environment_settings(environment)
    if chosen.resume:
        layers = [read_toml(Path(chosen.resume) / "settings.toml")]
    else:
        preset = chosen.preset or from_environment.get("preset") or "seed"
        layers = [read_preset(str(preset)), read_toml(Path(chosen.config)) if chosen.config else {}]
        layers.append(from_environment)
    merged = {name: value for layer in layers for name, value in layer.items()}
    check_names(merged)
    try:
        return Settings(_cli_parse_args=list(arguments), **merged)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        raise InputError(describe(error)) from None
    except SettingsError as error:
        raise InputError(str(error).removeprefix("error parsing CLI: ")) from None


def environment_settings(environment: Mapping[str, str]) -> dict[str, object]:
    """Settings given by environment variables, ours (prefixed) over the contest's."""
    names = CONTEST_ALIASES | {name.upper(): name for name in CONTEST_NAMES}
    found = {names[key]: value for key, value in environment.items() if key in names}
    ours = {
        key.removeprefix(ENV_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENV_PREFIX)
    }
    return {**found, **ours}


def read_preset(name: str) -> dict[str, object]:
    """A preset's settings by its name."""
    path = PRESETS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.toml")))
        raise InputError(f"preset {name!r} does not exist; there are: {known}")
    return {"preset": name} | read_toml(path)


def read_toml(path: Path) -> dict[str, object]:
    """A flat TOML file's settings."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read settings from {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None


def check_names(given: Mapping[str, object]) -> None:
    """Refuse names that are no setting, with the nearest that is."""
    for name in given:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; train.py --help lists all"
            raise InputError(f"unknown setting {name}{hint}")


def describe(error: ValidationError) -> str:
    """The first complaint of a validation, as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"setting {where}: {message}, not {first['input']!r}" if where else message
