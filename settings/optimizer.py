"""Settings of the optimizers: Muon, AdamW, and the average of the weights."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from settings.section import Fraction, Section, Share


class OptimizerSettings(Section):
    """Muon, AdamW, and the average of the weights."""

    matrix_lr: NonNegativeFloat = Field(
        default=0.027, description="learning rate of Muon, which trains the banks"
    )
    down_lr_factor: PositiveFloat = Field(
        default=1.0,
        description="factor on matrix_lr of the MLP's down projections; their decay stays",
    )
    tied_embed_lr: NonNegativeFloat = Field(
        default=0.035, description="AdamW's learning rate of the tied embedding and tables"
    )
    embed_lr: NonNegativeFloat = Field(
        default=0.6, description="AdamW's learning rate of tables when the head is untied"
    )
    scalar_lr: NonNegativeFloat = Field(
        default=0.025, description="AdamW's learning rate of vectors and small matrices"
    )
    head_lr: NonNegativeFloat = Field(
        default=0.008, description="AdamW's learning rate of the untied head and MTP heads"
    )
    muon_momentum: Share = Field(
        default=0.99, description="Muon's Nesterov momentum after its warm-up"
    )
    muon_momentum_warmup_start: Share = Field(default=0.92, description="Muon's momentum at step 0")
    muon_momentum_warmup_steps: NonNegativeInt = Field(
        default=1500, description="steps over which the momentum rises"
    )
    muon_momentum_warmup_share: Fraction = Field(
        default=0.0,
        description="momentum's warm-up as a fraction of the clock or of the iterations; 0: use "
        "muon_momentum_warmup_steps",
    )
    muon_cooldown_share: Fraction = Field(
        default=0.0,
        description="last fraction of the run, in which the momentum falls to "
        "muon_cooldown_end; 0: it stays",
    )
    muon_cooldown_end: Share = Field(
        default=0.85, description="Muon's momentum at the end of its cooldown"
    )
    muon_backend_steps: PositiveInt = Field(
        default=5, le=100, description="Newton-Schulz iterations"
    )
    muon_coefficients: Literal["classic", "polar_express"] = Field(
        default="classic",
        description="coefficients of the Newton-Schulz iterations: Keller Jordan's, or Polar "
        "Express, which brings small singular values to one as well",
    )
    muon_row_norm: bool = Field(
        default=False, description="normalise rows before the Newton-Schulz iterations (MuonEq)"
    )
    muon_beta2: Share = Field(
        default=0.0,
        description="decay of the rows' second moments, whose roots divide the rows of Muon's "
        "update (NorMuon); 0: off",
    )
    cautious_decay: bool = Field(
        default=False,
        description="decay a weight only where its update has the same sign",
    )
    muon_wd: NonNegativeFloat = Field(
        default=0.04, description="decoupled weight decay of the banks"
    )
    adam_wd: NonNegativeFloat = Field(
        default=0.04, description="decoupled weight decay of all other parameters"
    )
    embed_wd: NonNegativeFloat | None = Field(
        default=None,
        description="decoupled weight decay of embeddings, tables and output heads; not given: "
        "adam_wd",
    )
    beta1: Share = Field(default=0.9, description="decay of AdamW's first moment")
    beta2: Share = Field(default=0.95, description="decay of AdamW's second moment")
    adam_eps: PositiveFloat = Field(default=1e-8, description="AdamW's epsilon")
    grad_clip_norm: NonNegativeFloat = Field(
        default=0.3,
        description="global norm to which reduced gradients are clipped; 0: no clipping",
    )
    averaging: Literal["ema", "lawa", "none"] = Field(
        default="ema",
        description="average of the weights: exponential, or mean of the latest snapshots",
    )
    ema_decay: Share = Field(default=0.997, description="decay a step of the exponential average")
    ema_share: Annotated[float, Field(ge=0, le=0.1)] = Field(
        default=0.0,
        description="half-life of the exponential average as a fraction of the run's steps; 0: use "
        "ema_decay",
    )
    lean: NonNegativeFloat = Field(
        default=0.0,
        description="mean steps that weights look ahead of their exponential average at the full "
        "rate (EMA-Nesterov); 0: off",
    )
    lean_from: Fraction = Field(
        default=0.15, description="fraction of the run at which weights begin to look ahead"
    )
    lean_until: Fraction = Field(
        default=0.75, description="fraction of the run at which weights no longer look ahead"
    )
    readout: bool = Field(
        default=False,
        description="keep averages of 1.5, 4.5 and 13 % of the run, and export the blend of one "
        "with the last weights that has the least loss on held-out training windows",
    )
    lawa_k: PositiveInt = Field(default=10, description="snapshots that LAWA averages")
    lawa_freq: PositiveInt = Field(default=100, description="steps between LAWA's snapshots")
