"""The whole network a second time, from its description, in fp64.

It stands on ``tests.kernels.tools.oracle``.

Parameters come by name, laid out as docs/architecture.md says: banks (2L, out, in), whose first
halves are Q and K, whose second halves are O and V.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import Architecture
from tests.kernels.tools import oracle

Parameters = Mapping[str, Tensor]


def project(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bti,oi->bto", x, weight)


def passes(config: Architecture, loops: int) -> list[int]:
    """Layers in the order in which they run: the loop's come again, then the others."""
    found = []
    for layer in range(config.num_layers):
        found.append(layer)
        if config.loop_layers and layer == config.loop_layers[-1]:
            for _ in range(loops):
                found += config.loop_layers
    return found


def hidden(
    config: Architecture,
    p: Parameters,
    tokens: Tensor,
    loops: int | None = None,
    window: int | None = None,
) -> Tensor:
    """The final normed state (B, T, C); the architecture's loops and window unless given."""
    x0 = embedded(config, p, tokens)
    order = passes(config, config.num_loops if loops is None else loops)
    bos_id = config.bos_id if config.document_mask else None
    window = config.window if window is None else window
    encoder = len(order) // 2
    x, second, pushed, values = x0, None, [], {}
    for i, layer in enumerate(order):
        decoder, before = i - encoder, x
        if 0 <= decoder < encoder:
            x = skipped(config, p, decoder, x, pushed.pop())
        a = p["mix"][layer, 0] * x + p["mix"][layer, 1] * x0
        seen = window
        if layer in config.near_layers and (not window or config.near_window < window):
            seen = config.near_window
        masked = bos_id is not None or seen
        first = oracle.first_seen(tokens, bos_id, seen) if masked else None
        branch = p["attn_scale"][layer] * attention(config, p, layer, tokens, a, values, first)
        if config.parallel_from is not None and layer >= config.parallel_from:
            second = before if second is None else second
            fed = p["mlp_scale"][layer] * mlp(config, p, layer, second)
            x, second = combined(config, p, layer, (x, second), (branch, fed))
        else:
            h = a + branch
            x = h + p["mlp_scale"][layer] * mlp(config, p, layer, h)
        if i < encoder:
            pushed.append(x)
    x = x if second is None else (x + second) / 2
    return oracle.rms_normed(x, config.norm_eps)


def skipped(config: Architecture, p: Parameters, row: int, x: Tensor, skip: Tensor) -> Tensor:
    """The stream with a skip added, or weighed against it."""
    skip = p["skip_weight"][row] * skip
    if not config.skip_gates:
        return x + skip
    share = oracle.sigmoid(p["skip_gate"][row])
    return share * x + (1 - share) * skip


def combined(
    config: Architecture,
    p: Parameters,
    layer: int,
    lanes: tuple[Tensor, Tensor],
    branches: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Both lanes kept by a factor each, and both branches added to both by a factor each."""
    assert config.parallel_from is not None
    keep, mix = (p[name][layer - config.parallel_from] for name in ("lane_keep", "lane_mix"))
    first, second = (
        keep[i] * lanes[i] + mix[0, i] * branches[0] + mix[1, i] * branches[1] for i in (0, 1)
    )
    return first, second


def edges_of(config: Architecture) -> Tensor | None:
    """As many pairs as the network has rows for, with BOS as token or predecessor."""
    if not config.num_edges:
        return None
    others = range(config.num_edges // 2 + 1)
    found = {(1, other) for other in others} | {(other, 1) for other in others}
    return torch.tensor(sorted(found)[: config.num_edges], dtype=torch.int32).T.contiguous()


def embedded(config: Architecture, p: Parameters, tokens: Tensor) -> Tensor:
    bigram = None
    if config.bigram_vocab_size:
        bigram = (p["bigram_table"], p["bigram_proj"], p["bigram_scale"])
    bos_id = config.bos_id if config.smear_bos_mask else None
    return oracle.embedded(
        tokens,
        p["tok_emb"],
        p["smear_gate"],
        bigram,
        bos_id=bos_id,
        eps=config.norm_eps,
        smear_scale=p["smear_scale"] if config.smear_window else None,
        edges=edges_of(config),
    )


def scaled_norm(config: Architecture, layer: int, x: Tensor) -> Tensor:
    divisor = (layer + 1) ** 0.5 if config.ln_scale else 1.0
    return oracle.rms_normed(x, config.norm_eps) / divisor


def mlp(config: Architecture, p: Parameters, layer: int, h: Tensor) -> Tensor:
    x = scaled_norm(config, layer, h)
    return oracle.mlp(x, p["up_bank"][layer], p["down_bank"][layer], config.leaky_slope)


def attention(
    config: Architecture,
    p: Parameters,
    layer: int,
    tokens: Tensor,
    a: Tensor,
    values: dict[str, Tensor],
    first: list[list[int]] | None,
) -> Tensor:
    """A layer's attention branch. ``values`` has those of the first pass, or gets them."""
    layers, x = config.num_layers, scaled_norm(config, layer, a)
    value = project(x, p["kv_bank"][layers + layer])
    if config.ve_enabled and layer in config.ve_layers:
        added = project(p["value_table"][tokens.long()], p["value_proj"])
        place = config.ve_layers.index(layer)
        value = value + p["value_layer_scale"][place] * (p["value_scale"] * added)
    values.setdefault("first", value)
    if config.value_residual:
        from_first, own = p["value_residual"][layer]
        value = from_first * values["first"] + own * value
    gate = None
    if config.gated_attention:
        gate = project(x, p["gate_weight"][layer]) + p["gate_bias"][layer]

    if config.gate_window:
        weight = p["gate_weight"][layer]
        gate = 0.5 * torch.einsum("btj,hj->bth", x[..., : config.gate_window], weight)

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, config.model_dim // config.num_heads))

    y = oracle.attended(
        heads(project(x, p["qo_bank"][layer])),
        heads(project(x, p["kv_bank"][layer])),
        heads(value),
        p["q_gain"][layer],
        rope=(config.rope_dims, config.rope_base),
        eps=config.norm_eps,
        xsa=layer >= layers - config.xsa_last_n,
        gate=gate,
        first=first,
    )
    return project(y.flatten(2), p["qo_bank"][layers + layer])


def loss(
    config: Architecture,
    p: Parameters,
    tokens: Tensor,
    targets: Tensor,
    mtp_weight: float | None = None,
    target_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss () and nats (B, T)."""
    with_mtp = config.mtp_num_heads > 0 and mtp_weight is not None
    return oracle.loss(
        hidden(config, p, tokens),
        p["tok_emb" if config.tie_embeddings else "head"],
        targets,
        softcap=config.logit_softcap,
        mtp_heads=p["mtp_heads"] if with_mtp else (),
        mtp_weight=0.0 if mtp_weight is None else mtp_weight,
        target_weight=target_weight,
    )
