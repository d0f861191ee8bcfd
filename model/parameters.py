"""The table of parameters: shape, initial value, optimizer rule and storage of each, in one row.

Constructor, optimizer, sharding, quantisation, Hessians, test-time training and the artifact's
check read this table; no other module derives anything from a parameter's name. Without torch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from model.config import Architecture
from model.plan import plan

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

EDGES = "edges"  # the one tensor of an artifact that is no parameter: pairs that have rows
LARGEST_SMALL = 65_536  # elements: a 2-D tensor above this is worth coding
VALUE_TABLE_STD = 0.01
BIGRAM_SCALE = 0.05
VALUE_SCALE = 0.1
GATE_BIAS = 4.0
GATE_SCALE = 0.5  # of the logits of gates of windows
LANE_KEEP = 1.1


@dataclass(frozen=True)
class Constant:
    """Every element has one value; with several, index i of axis 1 has the i-th."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Normal:
    """Normal with mean 0. ``per_token``: rows are then multiplied by the run's embedding gain."""

    std: float
    per_token: bool = False


@dataclass(frozen=True)
class Orthogonal:
    """Each matrix (rows, cols) is random orthogonal (arXiv:1312.6120).

    Attributes:
        zeros: the last matrices, so many, are zero.
    """

    zeros: int = 0


Init = Constant | Normal | Orthogonal


class Slice(NamedTuple):
    """What one index of axis 0 is."""

    matrix: str
    """A ``model.hooks.Site``'s name if a matrix product multiplies by it, otherwise any name."""
    layer: int


class Stack(NamedTuple):
    """Slices of several layers that follow each other along axis 0."""

    matrix: str
    layers: Sequence[int]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: of the module's attribute.
        shape: of the fp32 master.
        init: initial values.
        rule: key of ``training.optimizer.RULES``.
        storage: "attention", "mlp", "embed" or "table", a field of
            ``artifact.quantisation.recipe.Recipe``; "small": floating point; "none": not exported.
        stacks: what axis 0 consists of; () if it is no layer axis.
        product: "head" if the whole tensor is the matrix of the output head; "" otherwise.
    """

    name: str
    shape: tuple[int, ...]
    init: Init
    rule: str
    storage: str
    stacks: tuple[Stack, ...] = ()
    product: str = ""

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What each index of axis 0 is; () if axis 0 is no layer axis."""
        return tuple(Slice(stack.matrix, layer) for stack in self.stacks for layer in stack.layers)


def stored_as(role: str, shape: tuple[int, ...]) -> str:
    """Return ``role`` if a tensor is worth coding, "small" otherwise."""
    return role if len(shape) == 2 and math.prod(shape) > LARGEST_SMALL else "small"


def bank(
    name: str,
    storage: str,
    init: Init,
    matrix: tuple[int, int],
    *stacks: Stack,
    rule: str = "muon",
) -> ParameterSpec:
    """Return a stack of matrices, which Muon updates."""
    count = sum(len(stack.layers) for stack in stacks)
    return ParameterSpec(name, (count, *matrix), init, rule, storage, stacks)


def table(name: str, init: Init, *shape: int) -> ParameterSpec:
    """Return an embedding table (rows, width)."""
    return ParameterSpec(name, shape, init, "table", stored_as("table", shape))


def small(name: str, init: Init, *shape: int, stack: Stack | None = None) -> ParameterSpec:
    """Return a scalar, a vector or a small matrix; ``stack`` names its layers along axis 0."""
    stacks = () if stack is None else (stack,)
    return ParameterSpec(name, shape, init, "scalar", stored_as("table", shape), stacks)


def by_layer(name: str, value: float, layers: Sequence[int], *shape: int) -> ParameterSpec:
    """Return a constant (len(layers), *shape)."""
    stack = Stack(name, layers)
    return small(name, Constant((value,)), len(layers), *shape, stack=stack)


def embeddings(config: Architecture) -> Iterator[ParameterSpec]:
    """Rows of what is read before the first layer, and of the value embeddings."""
    width, vocabulary = config.model_dim, config.vocab_size
    shape = vocabulary, width
    init = Normal(config.tied_embed_init_std, per_token=True)
    head = "head" if config.tie_embeddings else ""
    embed = stored_as("embed", shape)
    yield ParameterSpec("tok_emb", shape, init, "table", embed, product=head)
    yield small("smear_gate", Constant((0.0,)), config.smear_window or width)
    if config.smear_window:
        yield small("smear_scale", Constant((0.0,)))
    if config.bigram_vocab_size:
        yield table("bigram_table", Constant((0.0,)), config.bigram_vocab_size, config.bigram_dim)
        yield small("bigram_proj", Orthogonal(), width, config.bigram_dim)
        yield small("bigram_scale", Constant((BIGRAM_SCALE,)))
    if config.value_layers:
        yield table("value_table", Normal(VALUE_TABLE_STD), vocabulary, config.ve_dim)
        yield small("value_proj", Orthogonal(), config.kv_dim, config.ve_dim)
        yield small("value_scale", Constant((VALUE_SCALE,)))
        yield by_layer("value_layer_scale", 1.0, config.value_layers)


def blocks(config: Architecture) -> Iterator[ParameterSpec]:
    """Rows of the layers.

    Matrices that read the residual stream start orthogonal, those that write to it start at zero,
    so that every block starts as the identity.
    """
    layers, width, heads = range(config.num_layers), config.model_dim, config.num_heads
    kv, mlp, reads, writes = config.kv_dim, config.mlp_dim, Orthogonal(), Constant((0.0,))
    q, k, v, o, up, down = (Stack(name, layers) for name in ("q", "k", "v", "o", "up", "down"))
    half = Orthogonal(zeros=len(layers))
    yield bank("qo_bank", "attention", half, (width, width), q, o)
    yield bank("kv_bank", "attention", reads, (kv, width), k, v)
    yield bank("up_bank", "mlp", reads, (mlp, width), up)
    yield bank("down_bank", "mlp", writes, (width, mlp), down, rule="down")
    yield small("mix", Constant((1.0, 0.0)), len(layers), 2, width, stack=Stack("mix", layers))
    yield by_layer("attn_scale", 1.0, layers, width)
    yield by_layer("mlp_scale", 1.0, layers, width)
    yield by_layer("q_gain", config.qk_gain_init, layers, heads)
    if config.num_skips:
        entered = [visit.layer for visit in plan(config) if visit.skip_row is not None]
        yield by_layer("skip_weight", 1.0, entered, width)
        if config.skip_gates:
            yield by_layer("skip_gate", 0.0, entered, width)
    if config.gated_attention:
        yield by_layer("gate_weight", 0.0, layers, heads, width)
        yield by_layer("gate_bias", GATE_BIAS, layers, heads)
    if config.gate_window:
        yield by_layer("gate_weight", 0.0, layers, heads, config.gate_window)
    if config.value_residual:
        yield by_layer("value_residual", 0.5, layers, 2)
    if config.parallel_layers:
        yield by_layer("lane_keep", LANE_KEEP, config.parallel_layers, 2)
        yield by_layer("lane_mix", 1.0, config.parallel_layers, 2, 2)


def heads(config: Architecture) -> Iterator[ParameterSpec]:
    """Rows of the untied output head and of the MTP heads."""
    shape, zero = (config.vocab_size, config.model_dim), Constant((0.0,))
    if not config.tie_embeddings:
        embed = stored_as("embed", shape)
        yield ParameterSpec("head", shape, zero, "head", embed, product="head")
    if config.mtp_num_heads:
        yield ParameterSpec("mtp_heads", (config.mtp_num_heads, *shape), zero, "head", "none")


ROWS: tuple[Callable[[Architecture], Iterator[ParameterSpec]], ...] = (embeddings, blocks, heads)


def parameters(config: Architecture) -> tuple[ParameterSpec, ...]:
    """Return every parameter, in the model's order, in which random initial values are drawn."""
    return tuple(spec for rows in ROWS for spec in rows(config))


def roles(config: Architecture) -> dict[str, str]:
    """Return each parameter's ``storage`` by name; that of edges is their own."""
    found = {spec.name: spec.storage for spec in parameters(config)}
    return found | ({EDGES: EDGES} if config.num_edges else {})


def stored_shapes(config: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an artifact's tensors by name."""
    found = {spec.name: spec.shape for spec in parameters(config)}
    return found | ({EDGES: (2, config.num_edges)} if config.num_edges else {})


class Network(Protocol):
    """What ``exported`` reads of a ``model.gpt.GPT``."""

    @property
    def config(self) -> Architecture:
        """Its architecture."""
        ...

    @property
    def edges(self) -> "Tensor | None":
        """Pairs of tokens that have rows of the bigram table."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, "Parameter"]]:
        """Yield its parameters by name."""
        ...


def exported(model: Network) -> dict[str, "Parameter"]:
    """Return the parameters that a score depends on, by name: those that an artifact holds."""
    storage = roles(model.config)
    return {name: p for name, p in model.named_parameters() if storage[name] != "none"}


def stored(model: Network) -> dict[str, "Tensor"]:
    """Return what an artifact holds, by name: exported parameters, and edges."""
    found: dict[str, Tensor] = {**exported(model)}
    return found | ({} if model.edges is None else {EDGES: model.edges})


def counts(model: Network) -> tuple[int, int]:
    """Return the numbers of all parameters and of those that are exported."""
    everything = sum(parameter.numel() for _, parameter in model.named_parameters())
    return everything, sum(parameter.numel() for parameter in exported(model).values())
