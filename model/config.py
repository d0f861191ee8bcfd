"""The numbers that define the network. They travel in the artifact's header."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


def split_commas(value: object) -> object:
    """``"9,10"``, as an environment variable has it, to ``["9", "10"]``."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


# A header lacks these at their defaults: ``Architecture.header``.
LATER_FIELDS = (
    "loop_layers",
    "num_loops",
    "parallel_from",
    "window",
    "near_window",
    "near_layers",
    "document_mask",
    "gate_window",
    "smear_window",
    "skip_gates",
    "bigram_rows",
)

LayerList = Annotated[list[NonNegativeInt], BeforeValidator(split_commas)]


BigramRows = Literal["hash", "frequency", "information", "shuffled", "mixed"]


def edge_count(kind: BigramRows, rows: int) -> int:
    """Return how many of the bigram table's rows belong to one pair of tokens each."""
    quarters = {"hash": 0, "mixed": 3}.get(kind, 4)
    return min(rows * quarters // 4, max(0, rows - 2))


class Exact(BaseModel):
    """A table that refuses booleans as numbers, which pydantic would read as 1 and 0."""

    @model_validator(mode="before")
    @classmethod
    def check_booleans(cls, given: Any) -> Any:
        """Refuse a boolean, alone or in a list, where a number is wanted."""
        for name, value in given.items() if isinstance(given, dict) else ():
            for each in value if isinstance(value, list) else (value,):
                field = isinstance(each, bool) and cls.model_fields.get(name)
                if field and wants_number(field.annotation):
                    raise ValueError(f"{name}: give a number, not {str(each).lower()}")
        return given


def wants_number(kind: Any) -> bool:
    """Return whether a type is of numbers: itself, or one of its parts."""
    return kind in (int, float) or any(map(wants_number, get_args(kind)))


class Architecture(Exact):
    """Preset ``seed``'s network by default: parameter-golf PR #1081."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        frozen=True,
        defer_build=True,  # --help reads the declarations and needs no validator
    )

    vocab_size: Annotated[int, Field(ge=4, le=65_535)] = Field(
        default=1024, description="tokens in the vocabulary; unset: the tokenizer's, without data"
    )
    num_layers: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=11, description="transformer blocks"
    )
    model_dim: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=512, description="width of the residual stream"
    )
    num_heads: PositiveInt = Field(
        default=8, description="query heads; head dim = model_dim / num_heads"
    )
    num_kv_heads: PositiveInt = Field(
        default=4, description="key/value heads, shared by query heads (GQA)"
    )
    mlp_mult: PositiveFloat = Field(default=3.0, description="MLP width / model_dim")
    leaky_slope: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.75, description="slope of LeakyReLU^2 on the negative side, before the square"
    )
    rope_dims: NonNegativeInt = Field(
        default=16, description="dimensions of a head that RoPE rotates; even"
    )
    rope_base: PositiveFloat = Field(default=10_000.0, description="base of the RoPE wavelengths")
    qk_gain_init: Annotated[float, Field(ge=-1e6, le=1e6)] = Field(
        default=1.5, description="initial gain on normed queries"
    )
    xsa_last_n: NonNegativeInt = Field(
        default=4, description="last layers with exclusive self attention"
    )
    ln_scale: bool = Field(
        default=True, description="scale layer l's normed inputs by 1/sqrt(l + 1)"
    )
    norm_eps: PositiveFloat = Field(
        default=1e-6, description="added to the mean square in every RMSNorm"
    )
    bigram_vocab_size: NonNegativeInt = Field(
        default=2048, description="rows of the bigram table; 0: none"
    )
    bigram_dim: PositiveInt = Field(default=128, description="width of the bigram table")
    bigram_rows: BigramRows = Field(
        default="hash",
        description="whose the bigram table's rows are: pairs of tokens by their hash; or one pair "
        "each, by frequency, information, or shuffled information; mixed: 3/4 information",
    )
    smear_bos_mask: bool = Field(
        default=True,
        description="SmearGate stops at document starts (False: leaks across, as PR #1081)",
    )
    smear_window: NonNegativeInt = Field(
        default=0,
        description="SmearGate before the norm: one gate a position, of so many first channels; "
        "0: after the norm, a constant gate of each channel",
    )
    skip_gates: bool = Field(
        default=False, description="each channel of a U-net skip is weighed against the stream's"
    )
    ve_enabled: bool = Field(default=True, description="value embeddings")
    ve_dim: PositiveInt = Field(default=128, description="width of the value embedding table")
    ve_layers: LayerList = Field(default=[9, 10], description="layers that add value embeddings")
    gated_attention: bool = Field(default=False, description="sigmoid gate on each head's output")
    gate_window: NonNegativeInt = Field(
        default=0,
        description="channels that a gate without bias reads, the first ones; 0: no such gate",
    )
    value_residual: bool = Field(
        default=False, description="mix layer 0's values into later layers"
    )
    tie_embeddings: bool = Field(default=True, description="the output head is the token embedding")
    tied_embed_init_std: PositiveFloat = Field(
        default=0.005, description="initial std of the embedding"
    )
    logit_softcap: PositiveFloat = Field(default=30.0, description="logits = cap * tanh(z / cap)")
    mtp_num_heads: NonNegativeInt = Field(
        default=2, description="heads that predict further tokens in training; never exported"
    )
    bos_id: NonNegativeInt = Field(
        default=1,
        description="token that starts every document; unset: the tokenizer's, without data",
    )
    loop_layers: LayerList = Field(
        default=[], description="consecutive layers that are visited several times"
    )
    num_loops: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="how many more times loop_layers are visited"
    )
    parallel_from: PositiveInt | None = Field(
        default=None,
        description="first layer whose attention and MLP run on two lanes; by default none",
    )
    window: NonNegativeInt = Field(
        default=0, description="tokens that a position attends to, itself included; 0: all"
    )
    near_window: NonNegativeInt = Field(
        default=0, description="tokens that a position attends to at most in near_layers; 0: window"
    )
    near_layers: LayerList = Field(
        default=[], description="layers with near_window; the others have window"
    )
    document_mask: bool = Field(
        default=False, description="a position attends to its own document only"
    )

    @property
    def head_dim(self) -> int:
        """Dims of one attention head."""
        return self.model_dim // self.num_heads

    @property
    def kv_dim(self) -> int:
        """Width of the keys, and of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP."""
        return int(self.mlp_mult * self.model_dim)

    @property
    def num_edges(self) -> int:
        """Rows of the bigram table that belong to one pair of tokens each, an edge."""
        return edge_count(self.bigram_rows, self.bigram_vocab_size)

    @property
    def num_skips(self) -> int:
        """U-net skips with all loops: one for every two visits of a layer."""
        return (self.num_layers + self.num_loops * len(self.loop_layers)) // 2

    @property
    def parallel_layers(self) -> range:
        """Layers on two lanes."""
        first = self.num_layers if self.parallel_from is None else self.parallel_from
        return range(first, self.num_layers)

    @property
    def value_layers(self) -> list[int]:
        """Layers that add value embeddings, none where they are off."""
        return self.ve_layers if self.ve_enabled else []

    @model_validator(mode="after")
    def check_shapes(self) -> Self:
        """Refuse what no tensor can have, naming the numbers."""
        if self.model_dim % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide model_dim {self.model_dim}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.rope_dims % 2 or self.rope_dims > self.head_dim:
            raise ValueError(
                f"rope_dims {self.rope_dims} must be even and at most the head dim {self.head_dim}"
            )
        if self.xsa_last_n > self.num_layers:
            raise ValueError(f"xsa_last_n {self.xsa_last_n} exceeds num_layers {self.num_layers}")
        self.check_layers("ve_layers", self.value_layers)
        self.check_layers("near_layers", self.near_layers)
        if bool(self.near_window) != bool(self.near_layers):
            raise ValueError(
                f"near_window {self.near_window} and near_layers {self.near_layers} need each other"
            )
        if not self.mlp_dim:
            raise ValueError(f"mlp_mult {self.mlp_mult} of model_dim {self.model_dim} is no MLP")
        if max(self.gate_window, self.smear_window) > self.model_dim:
            raise ValueError(
                f"gate_window {self.gate_window} and smear_window {self.smear_window} must be at "
                f"most model_dim {self.model_dim}"
            )
        if self.gate_window and self.gated_attention:
            raise ValueError(f"gate_window {self.gate_window} excludes gated_attention")
        if self.bos_id >= self.vocab_size and not self.asks_tokenizer:
            raise ValueError(f"bos_id {self.bos_id} is outside vocab_size {self.vocab_size}")
        if self.bigram_vocab_size == 1:
            raise ValueError("bigram_vocab_size 1 leaves no row for a bigram: 0 or at least 2")
        return self

    def check_layers(self, name: str, layers: list[int]) -> None:
        """Raise ValueError for layers that do not exist or come twice."""
        beyond = [layer for layer in layers if layer >= self.num_layers]
        if beyond:
            raise ValueError(f"{name} {beyond} do not exist: layers are 0 to {self.num_layers - 1}")
        if len(set(layers)) < len(layers):
            raise ValueError(f"{name} {layers} names a layer twice")

    @property
    def asks_tokenizer(self) -> bool:
        """Whether the vocabulary is yet to come from a tokenizer."""
        return False

    @model_validator(mode="after")
    def check_visits(self) -> Self:
        """Refuse orders of layers that no plan has."""
        loop, layers = self.loop_layers, self.num_layers
        if loop and (loop != list(range(loop[0], loop[-1] + 1)) or loop[-1] >= layers):
            raise ValueError(
                f"loop_layers {loop} must be consecutive layers between 0 and {layers - 1}"
            )
        if self.num_loops and not loop:
            raise ValueError(f"num_loops {self.num_loops} needs loop_layers")
        first, after = self.parallel_from, max(layers // 2, *loop, 0)
        if first is not None and not after < first < layers:
            raise ValueError(
                f"parallel_from {first} must be a layer between {after + 1} and {layers - 1}, "
                "beyond the first decoder layer and loop_layers"
            )
        return self

    def header(self) -> dict[str, Any]:
        """Return the numbers as an artifact's header holds them.

        Fields that the first artifacts do not have are left out at their defaults, so that the
        same network always has the same header.
        """
        numbers = self.model_dump()
        for name in LATER_FIELDS:
            if numbers[name] == type(self).model_fields[name].default:
                del numbers[name]
        return numbers
