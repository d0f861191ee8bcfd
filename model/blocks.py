"""The layers' arithmetic, and the hook that reads or replaces their matrix products."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import Operations
from model.config import Architecture

QKV = ("q", "k", "v")


class Site(NamedTuple):
    """Where in the network a matrix product happens.

    Attributes:
        matrix: "q", "k", "v", "o", "up", "down" or "head".
        layer: whose weights; 0 for the head.
        visit: number of the pass through a layer, from 0; 0 for the head.
    """

    matrix: str
    layer: int
    visit: int


HEAD = Site("head", layer=0, visit=0)


class ProductHook(Protocol):
    """Reads the matrix products of a forward pass, or replaces them."""

    @property
    def matrices(self) -> Collection[str]:
        """Matrices whose products the hook is passed. The other products stay fused."""
        ...

    @property
    def replaces(self) -> bool:
        """Whether the network computes with what the hook returns.

        If not, products are computed for the hook besides the fused operations, whose result stays
        the same bit for bit.
        """
        ...

    def __call__(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        """Return the product to use instead of ``y``; y itself if the hook only reads.

        Args:
            site: of the product.
            x: (B, T, in), its input.
            y: (B, T, out), its output. That of v contains the value embedding; those of o and down
                contain the residual stream. Logits are never whole in memory, so for the head y is
                x, and the head reads what the hook returns.
        """
        ...


@dataclass
class LayerWeights:
    """The weights of one layer, ready to compute with.

    Vectors are fp32, matrices are compute copies (out, in) with their scales in them.

    Attributes:
        layer: its number.
        mix: (2, C), of the stream and of the embedded input.
        gain: (H,), of the queries.
        qkv: ((H + 2 G) D, C).
        o, up, down: (C, H D), (M, C), (C, M).
        skip: (C,), of the U-net skip that enters the layer.
        gate: weight (H, C) in the compute dtype and bias (H,) of the attention gate.
        lookup: (G D, E), of the value embedding.
        value_mix: (2,), of layer 0's values and of this layer's.
    """

    layer: int
    mix: Tensor
    gain: Tensor
    qkv: Tensor
    o: Tensor
    up: Tensor
    down: Tensor
    skip: Tensor | None
    gate: tuple[Tensor, Tensor] | None
    lookup: Tensor | None
    value_mix: Tensor | None


@dataclass
class ResidualState:
    """Tensors that later layers of one forward pass read again.

    Attributes:
        x0: (B, T, C), the embedded input.
        lookup: (B, T, E), rows of the value table.
        rope: (2, T, dims / 2) fp32.
        first_values: (B, T, G, D), layer 0's.
        skips: (B, T, C) each, entries of encoder layers for the U-net skips.
    """

    x0: Tensor
    lookup: Tensor | None
    rope: Tensor
    first_values: Tensor | None = None
    skips: list[Tensor] = field(default_factory=list)


def serial(
    ops: Operations,
    config: Architecture,
    weights: LayerWeights,
    stream: Tensor,
    visit: int,
    state: ResidualState,
    hook: ProductHook | None = None,
) -> Tensor:
    """Apply one layer, attention and then the MLP, to ``stream`` (B, T, C).

    ``stream`` is not modified, because a later layer may read it as a skip. The mixed stream is a
    new tensor, so both branches are added to it in place.
    """
    layer, eps = weights.layer, config.norm_eps
    scale = 1 / math.sqrt(layer + 1) if config.ln_scale else 1.0
    skip, skip_weight, mix = skip_and_mix(config, weights, state)
    mixed, normed, entered, state.x0 = ops.mix_norm(
        stream, state.x0, mix, scale=scale, eps=eps, skip=skip, skip_weight=skip_weight
    )
    if 0 < layer < config.num_encoder_layers:
        state.skips.append(entered)
    attended = attend(ops, config, weights, normed, visit, state, hook).flatten(2)
    stream = ops.linear_add(mixed, attended, weights.o)
    stream = hooked(hook, Site("o", layer, visit), attended, stream)
    stream, normed = ops.norm(stream, scale=scale, eps=eps)
    return feed_forward(ops, config, weights, normed, visit, stream, hook)


def skip_and_mix(
    config: Architecture, weights: LayerWeights, state: ResidualState
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return the U-net skip that enters a layer, its weight, and the mix of stream and input.

    The first decoder layer's skip is the last encoder layer's output, which is the stream itself:
    ``x + w x = (1 + w) x`` folds into the mix.
    """
    if weights.skip is None:
        return None, None, weights.mix
    if weights.layer == config.num_encoder_layers:
        of_stream, of_x0 = weights.mix.unbind()
        return None, None, torch.stack((of_stream * (1 + weights.skip), of_x0))
    return state.skips.pop(), weights.skip, weights.mix


def attend(
    ops: Operations,
    config: Architecture,
    weights: LayerWeights,
    normed: Tensor,
    visit: int,
    state: ResidualState,
    hook: ProductHook | None,
) -> Tensor:
    """Return attention's output (B, T, H, D) for a layer's normed input (B, T, C)."""
    gate = None
    if weights.gate is not None:
        matrix, bias = weights.gate
        gate = ops.linear(normed, matrix) + bias.to(normed.dtype)
    gain, rope, eps = weights.gain, state.rope, config.norm_eps
    xsa = weights.layer >= config.num_layers - config.xsa_last_n
    if weights.value_mix is not None or wants(hook, *QKV):
        q, k, v = project(ops, config, weights, normed, visit, state, hook)
        if weights.value_mix is not None or (hook is not None and hook.replaces):
            return ops.attention(q, k, v, gain, rope, eps=eps, xsa=xsa, gate=gate)
    return ops.self_attention(
        normed,
        weights.qkv,
        config.num_heads,
        config.num_kv_heads,
        gain,
        rope,
        eps=eps,
        xsa=xsa,
        gate=gate,
        lookup=None if weights.lookup is None else state.lookup,
        lookup_weight=weights.lookup,
    )


def project(
    ops: Operations,
    config: Architecture,
    weights: LayerWeights,
    normed: Tensor,
    visit: int,
    state: ResidualState,
    hook: ProductHook | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (B, T, H, D), k and v (B, T, G, D) of a layer's normed input."""
    sizes = (config.model_dim, config.kv_dim, config.kv_dim)
    lookup = None if weights.lookup is None else state.lookup
    parts = ops.projections(normed, weights.qkv, sizes, lookup, weights.lookup)
    q, k, v = (
        hooked(hook, Site(name, weights.layer, visit), normed, part).unflatten(
            -1, (-1, config.head_dim)
        )
        for name, part in zip(QKV, parts, strict=True)
    )
    if weights.value_mix is None:
        return q, k, v
    if state.first_values is None:
        state.first_values = v
    mix = weights.value_mix.to(v.dtype)
    return q, k, mix[0] * state.first_values + mix[1] * v


def feed_forward(
    ops: Operations,
    config: Architecture,
    weights: LayerWeights,
    normed: Tensor,
    visit: int,
    stream: Tensor,
    hook: ProductHook | None,
) -> Tensor:
    """Return ``stream`` plus the MLP of its norm, (B, T, C)."""
    slope = config.leaky_slope
    if hook is not None and wants(hook, "up", "down"):
        up, down = (Site(name, weights.layer, visit) for name in ("up", "down"))
        hidden = hooked(hook, up, normed, ops.linear(normed, weights.up))
        activated = F.leaky_relu(hidden, slope).square()
        if hook.replaces:
            stream = ops.linear_add(stream, activated, weights.down)
            return hooked(hook, down, activated, stream)
        hooked(hook, down, activated, stream + ops.linear(activated, weights.down))
    return ops.mlp(normed, weights.up, weights.down, slope, stream)


def wants(hook: ProductHook | None, *matrices: str) -> bool:
    """Return whether the hook is passed products of any of these matrices."""
    return hook is not None and any(matrix in hook.matrices for matrix in matrices)


def hooked(hook: ProductHook | None, site: Site, x: Tensor, y: Tensor) -> Tensor:
    """Return the hook's product, or y if the hook is not passed this matrix's."""
    return y if hook is None or site.matrix not in hook.matrices else hook(site, x, y)
