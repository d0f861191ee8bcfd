"""The arithmetic of a visit: one function a kind of block, in the table ``BLOCKS``."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from kernels import Operations
from kernels.operand import Operand, sourced
from model.config import Architecture
from model.hooks import ProductHook, Site, hooked, wants
from model.plan import Visit
from model.skips import Entry

QKV = ("q", "k", "v")


@dataclass
class LayerWeights:
    """The weights of one layer, ready to compute with.

    Vectors are fp32, matrices are compute copies (out, in) with their scales in them.

    Attributes:
        layer: its number.
        gain: (H,), of the queries.
        qkv: ((H + 2 G) D, C).
        o: (C, H D).
        mlp: returns up (M, C) and down (C, M), all layers' made by the first call. If up has a
            scale, the MLP's products are in fp8.
        gate: weight (H, C) in the compute dtype and bias (H,) of the attention gate.
        lookup: (G D, E), of the value embedding.
        value_mix: (2,), of layer 0's values and of this layer's.
        lanes: factors (2,) and (2, 2) of a layer on two lanes, as ``kernels.lanes.Lanes`` takes
            them.
        window_gate: (H, W) fp32, of the attention gate of W channels.
    """

    layer: int
    gain: Tensor
    qkv: Operand
    o: Operand
    mlp: Callable[[], tuple[Operand, Operand]]
    gate: tuple[Tensor, Tensor] | None
    lookup: Tensor | None
    value_mix: Tensor | None
    lanes: tuple[Tensor, Tensor] | None
    window_gate: Tensor | None


class Pass(NamedTuple):
    """What all visits of one forward pass share.

    Attributes:
        ops: the operations.
        config: the architecture.
        hook: is passed the layers' matrix products.
        rope: (2, T, dims / 2) fp32.
        lookup: (B, T, E), rows of the value table.
        entries: what enters each visit.
        bounds: (2, B, T) int32, the keys that each position sees, by ``documents`` and ``window``
            of a visit; None: all before it.
        read_later: numbers of visits whose outputs enter a later visit than the next.
    """

    ops: Operations
    config: Architecture
    hook: ProductHook | None
    rope: Tensor
    lookup: Tensor | None
    entries: Sequence[Entry]
    bounds: Mapping[tuple[bool, int | None], Tensor | None]
    read_later: Collection[int]


@dataclass
class ResidualState:
    """Tensors of one forward pass that later visits read, and that visits replace.

    Attributes:
        x0: (B, T, C), the embedded input.
        first_values: (B, T, G, D), the first visit's.
        outputs: (B, T, C) each, outputs of visits in ``Pass.read_later``, by number.
        lane: (B, T, C), the second lane, which the MLP reads; the stream is then the first.
    """

    x0: Tensor
    first_values: Tensor | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)
    lane: Tensor | None = None


class Block(Protocol):
    """One visit of a layer."""

    def __call__(
        self,
        run: Pass,
        weights: LayerWeights,
        stream: Tensor,
        number: int,
        visit: Visit,
        state: ResidualState,
    ) -> Tensor:
        """Return the stream (B, T, C) after the visit.

        Args:
            run: what all visits share.
            weights: of ``visit.layer``.
            stream: (B, T, C). It is not modified, because a later visit may read it as a skip.
            number: of the visit, from 0.
            visit: its row of the plan.
            state: is updated.
        """
        ...


def serial(
    run: Pass,
    weights: LayerWeights,
    stream: Tensor,
    number: int,
    visit: Visit,
    state: ResidualState,
) -> Tensor:
    """Apply attention, then the MLP to the result: a ``Block``.

    The mixed stream is a new tensor, so both branches are added to it in place.
    """
    ops, eps, scale = run.ops, run.config.norm_eps, norm_scale(run, visit.layer)
    mix, skip_weight, _ = run.entries[number]
    mixed, normed, entered, state.x0, gate = ops.mix_norm(
        stream,
        state.x0,
        mix,
        scale=scale,
        eps=eps,
        skip=skip_of(visit, skip_weight, state),
        skip_weight=skip_weight,
        gate_weight=weights.window_gate,
    )
    if number - 1 in run.read_later:
        state.outputs[number - 1] = entered
    stream = attend(run, weights, normed, number, visit, state, gate, mixed)
    stream, to_mlp = ops.norm(stream, scale=scale, eps=eps, fp8=weights.mlp()[0].scale is not None)
    return feed_forward(run, weights, to_mlp, number, stream)


def parallel(
    run: Pass,
    weights: LayerWeights,
    stream: Tensor,
    number: int,
    visit: Visit,
    state: ResidualState,
) -> Tensor:
    """Apply attention to the first lane and the MLP to the second, add both to both: a ``Block``.

    The first visit on two lanes begins them as one stream. Skips enter the first lane only.
    """
    assert weights.lanes is not None
    ops, eps, scale = run.ops, run.config.norm_eps, norm_scale(run, visit.layer)
    mix, skip_weight, keep = run.entries[number]
    skip = skip_of(visit, skip_weight, state)
    _, normed, first, state.x0, gate = ops.mix_norm(
        stream,
        state.x0,
        mix,
        scale=scale,
        eps=eps,
        skip=skip,
        skip_weight=skip_weight,
        gate_weight=weights.window_gate,
        normed_only=True,
    )
    second = first.clone() if state.lane is None else state.lane
    second, to_mlp = ops.norm(second, scale=scale, eps=eps, fp8=weights.mlp()[0].scale is not None)
    product = attend(run, weights, normed, number, visit, state, gate, None)
    fed = feed_forward(run, weights, to_mlp, number, None)
    stream, state.lane = ops.lanes(
        first,
        second,
        product,
        fed,
        *weights.lanes,
        skip=skip,
        skip_weight=skip_weight,
        first_weight=keep,
    )
    return stream


def norm_scale(run: Pass, layer: int) -> float:
    """Return the factor of a layer's normed inputs."""
    return 1 / math.sqrt(layer + 1) if run.config.ln_scale else 1.0


def skip_of(visit: Visit, skip_weight: Tensor | None, state: ResidualState) -> Tensor | None:
    """Return the U-net skip that enters a visit besides the stream, if it has a weight."""
    if visit.skip is None or skip_weight is None:
        return None
    return state.outputs.pop(visit.skip)


def attend(
    run: Pass,
    weights: LayerWeights,
    normed: Tensor,
    number: int,
    visit: Visit,
    state: ResidualState,
    gate: Tensor | None,
    stream: Tensor | None,
) -> Tensor:
    """Return ``stream`` plus the attention of a visit's normed input, (B, T, C).

    It is the attention alone if ``stream`` is None. ``gate`` (B, T, H) are logits, if the entry
    computed them.
    """
    ops, hook = run.ops, run.hook
    fused = weights.value_mix is None and not wants(hook, *QKV, "o")
    onto = (weights.o, stream) if fused else None
    product = attended(run, weights, normed, number, visit, state, gate, onto)
    if not fused:
        y = product.flatten(2)
        product = (
            ops.linear(y, weights.o) if stream is None else ops.linear_add(stream, y, weights.o)
        )
        product = hooked(hook, Site("o", visit.layer, number), y, product)
    return hooked(hook, Site("attention", visit.layer, number), normed, product)


def attended(
    run: Pass,
    weights: LayerWeights,
    normed: Tensor,
    number: int,
    visit: Visit,
    state: ResidualState,
    gate: Tensor | None,
    onto: tuple[Operand, Tensor | None] | None,
) -> Tensor:
    """Return attention's output (B, T, H, D) for a visit's normed input (B, T, C).

    With ``onto``, return its projection (B, T, C), as ``self_attention``.
    """
    ops, config, hook = run.ops, run.config, run.hook
    if weights.gate is not None:
        matrix, bias = weights.gate
        gate = ops.linear(normed, matrix) + bias.to(normed.dtype)
    gain, rope, eps = weights.gain, run.rope, config.norm_eps
    xsa, bounds = visit.exclude_self, run.bounds[visit.documents, visit.window]
    if weights.value_mix is not None or wants(hook, *QKV):
        q, k, v = project(run, weights, normed, number, state)
        if weights.value_mix is not None or (hook is not None and hook.replaces):
            return ops.attention(q, k, v, gain, rope, eps=eps, xsa=xsa, gate=gate, documents=bounds)
    lookup = None
    if run.lookup is not None and weights.lookup is not None:
        lookup = run.lookup, weights.lookup
    return ops.self_attention(
        normed,
        weights.qkv,
        config.num_kv_heads,
        gain,
        rope,
        eps=eps,
        xsa=xsa,
        gate=gate,
        documents=bounds,
        lookup=lookup,
        onto=onto,
        window=visit.window,
    )


def project(
    run: Pass, weights: LayerWeights, normed: Tensor, number: int, state: ResidualState
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (B, T, H, D), k and v (B, T, G, D) of a visit's normed input."""
    config = run.config
    sizes = (config.model_dim, config.kv_dim, config.kv_dim)
    lookup = None if weights.lookup is None else run.lookup
    parts = run.ops.projections(normed, weights.qkv, sizes, lookup, weights.lookup)
    q, k, v = (
        hooked(run.hook, Site(name, weights.layer, number), normed, part).unflatten(
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
    run: Pass, weights: LayerWeights, normed: Tensor | Operand, number: int, stream: Tensor | None
) -> Tensor:
    """Return ``stream`` plus the MLP of its norm, (B, T, C); the MLP alone if it is None."""
    ops, hook, slope = run.ops, run.hook, run.config.leaky_slope
    mlp, exact = Site("mlp", weights.layer, number), sourced(normed)
    into, out = weights.mlp()
    if hook is not None and wants(hook, "up", "down"):
        up, down = (Site(name, weights.layer, number) for name in ("up", "down"))
        hidden = hooked(hook, up, exact, ops.linear(normed, into))
        activated = F.leaky_relu(hidden, slope).square()
        if hook.replaces and stream is not None:
            product = ops.linear_add(stream, activated, out)
        else:
            product = ops.linear(activated, out)
            product = product if stream is None else stream + product
        product = hooked(hook, down, activated, product)
        if hook.replaces:
            return hooked(hook, mlp, exact, product)
    product = ops.mlp(normed, into, out, slope, stream)
    return hooked(hook, mlp, exact, product)


BLOCKS: Mapping[str, Block] = {"serial": serial, "parallel": parallel}
