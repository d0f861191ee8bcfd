"""GPT with U-net skips, residual mixes, value embeddings and XSA (parameter-golf PR #1081)."""

import math
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor, nn

from model.config import Architecture
from model.init import initialise


class GPT(nn.Module):
    """The network. Layers are stacked in few tensors, so that an optimizer sees few, large ones.

    Letters in shapes: B batch, T time, C width, L layers, H query heads, G key/value heads,
    M MLP width, V vocabulary.

    Args:
        config: the architecture.
        ops: ``kernels.operations(backend)``.
        dtype: of activations and compute copies; parameters are fp32 masters.
        max_seq_len: longest T that ``forward`` and ``score`` will see.
        seed: of the initial weights, the same on every device and rank.
        fake_step_floor: ``min_step`` of the int6 grid that QAT trains for.
    """

    rope: Tensor

    def __init__(
        self,
        config: Architecture,
        ops: ModuleType,
        *,
        dtype: torch.dtype,
        max_seq_len: int,
        seed: int,
        fake_step_floor: float = 0.0,
    ) -> None:
        super().__init__()
        self.config, self.ops, self.dtype = config, ops, dtype
        self.fake_step_floor = fake_step_floor
        self._make_embeddings(config)
        self._make_layers(config)
        self._make_heads(config)
        table = ops.rope_table(max_seq_len, config.rope_dims, config.rope_base, torch.device("cpu"))
        self.register_buffer("rope", table, persistent=False)
        initialise(self, seed)

    def _make_embeddings(self, config: Architecture) -> None:
        width = config.model_dim
        self.tok_emb = parameter(config.vocab_size, width)
        self.smear_gate = parameter(width)
        if config.bigram_vocab_size:
            self.bigram_table = parameter(config.bigram_vocab_size, config.bigram_dim)
            self.bigram_proj = parameter(width, config.bigram_dim)
            self.bigram_scale = parameter()
        if config.value_layers:
            self.value_table = parameter(config.vocab_size, config.ve_dim)
            self.value_proj = parameter(config.kv_dim, config.ve_dim)
            self.value_scale = parameter()
            self.value_layer_scale = parameter(len(config.value_layers))

    def _make_layers(self, config: Architecture) -> None:
        layers, width = config.num_layers, config.model_dim
        self.qo_bank = parameter(2 * layers, width, width)
        self.kv_bank = parameter(2 * layers, config.kv_dim, width)
        self.up_bank = parameter(layers, config.mlp_dim, width)
        self.down_bank = parameter(layers, width, config.mlp_dim)
        self.mix = parameter(layers, 2, width)
        self.attn_scale = parameter(layers, width)
        self.mlp_scale = parameter(layers, width)
        self.q_gain = parameter(layers, config.num_heads)
        if config.num_encoder_layers:
            self.skip_weight = parameter(config.num_encoder_layers, width)
        if config.gated_attention:
            self.gate_weight = parameter(layers, config.num_heads, width)
            self.gate_bias = parameter(layers, config.num_heads)
        if config.value_residual:
            self.value_residual = parameter(layers, 2)

    def _make_heads(self, config: Architecture) -> None:
        if not config.tie_embeddings:
            self.head = parameter(config.vocab_size, config.model_dim)
        if config.mtp_num_heads:
            self.mtp_heads = parameter(config.mtp_num_heads, config.vocab_size, config.model_dim)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        mtp_weight: Tensor | None = None,
        qat: Tensor | None = None,
        target_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Training loss () fp32, and each token's nats (B, T) fp32 of the main head.

        Args:
            tokens: (B, T) int32.
            targets: (B, T) int32, the next tokens.
            mtp_weight: () fp32 lever; None leaves the MTP heads out.
            qat: () fp32 lever, int6-faked weights where > 0.5; None: never.
            target_weight: (V,) fp32 weight of each target token.
        """
        mtp = self.config.mtp_num_heads > 0 and mtp_weight is not None
        return self.ops.loss(
            self.hidden(tokens, qat),
            self._output_head(),
            targets,
            softcap=self.config.logit_softcap,
            mtp_heads=self._copy(self.mtp_heads) if mtp else None,
            mtp_weight=mtp_weight,
            target_weight=target_weight,
        )

    def score(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Nats (B, S) fp32 of the last S positions of tokens (B, T), given targets (B, S)."""
        hidden = self.hidden(tokens)[:, -targets.size(1) :]
        softcap = self.config.logit_softcap
        return self.ops.loss(hidden, self._output_head(), targets, softcap=softcap)[1]

    def hidden(self, tokens: Tensor, qat: Tensor | None = None) -> Tensor:
        """The final normed state (B, T, C) of tokens (B, T)."""
        eps = self.config.norm_eps
        state = Stream(self._embed(tokens), self._value_embedding(tokens))
        x, branch = state.x0, None
        for layer, weights in enumerate(self._layer_weights(qat)):
            x, branch = self._block(layer, weights, x, branch, state)
        return self.ops.norm(x, scale=1.0, eps=eps, branch=branch, branch_scale=self.mlp_scale[-1])[
            2
        ]

    def _block(
        self, layer: int, weights: "LayerWeights", x: Tensor, branch: Tensor | None, state: "Stream"
    ) -> tuple[Tensor, Tensor]:
        """One layer. Returns the residual stream and the MLP's output, which is not yet added to
        it: the next norm adds it, in the pass that reads the stream anyway."""
        scale = 1 / math.sqrt(layer + 1) if self.config.ln_scale else 1.0
        eps = self.config.norm_eps
        skip, skip_weight, mix = self._skip_and_mix(layer, state)
        is_skipped_from = 0 < layer < self.config.num_encoder_layers
        stream, mixed, normed = self.ops.norm(
            x,
            scale=scale,
            eps=eps,
            branch=branch,
            branch_scale=None if branch is None else self.mlp_scale[layer - 1],
            skip=skip,
            skip_weight=skip_weight,
            x0=state.x0,
            mix=mix,
            keep_stream=is_skipped_from,
        )
        if is_skipped_from:
            state.skips.append(stream)
        attended = self._attend(layer, weights, normed, state)
        _, x, normed = self.ops.norm(
            mixed, scale=scale, eps=eps, branch=attended, branch_scale=self.attn_scale[layer]
        )
        return x, self.ops.mlp(normed, weights.up, weights.down, self.config.leaky_slope)

    def _skip_and_mix(
        self, layer: int, state: "Stream"
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """The U-net skip that enters ``layer``, its weight, and the mix of stream and input.

        The first decoder layer's skip is the last encoder layer's output, which is its own stream:
        ``x + w x = (1 + w) x`` folds into the mix.
        """
        mix = self.mix[layer]
        decoder = layer - self.config.num_encoder_layers
        if not 0 <= decoder < self.config.num_encoder_layers:
            return None, None, mix
        skip_weight = self.skip_weight[decoder]
        if decoder == 0:
            return None, None, torch.stack((mix[0] * (1 + skip_weight), mix[1]))
        return state.skips.pop(), skip_weight, mix

    def _attend(
        self, layer: int, weights: "LayerWeights", normed: Tensor, state: "Stream"
    ) -> Tensor:
        """Projections, attention and output projection of a layer, (B, T, C) -> (B, T, C)."""
        config, linear = self.config, self.ops.linear
        heads = (*normed.shape[:2], -1, config.head_dim)
        gate = None
        if config.gated_attention:
            gate = linear(normed, weights.gate) + self.gate_bias[layer].to(normed.dtype)
        attended = self.ops.attention(
            linear(normed, weights.q).view(heads),
            linear(normed, weights.k).view(heads),
            self._values(layer, weights, normed, state).view(heads),
            self.q_gain[layer],
            self.rope[:, : normed.size(1)],
            eps=config.norm_eps,
            xsa=layer >= config.num_layers - config.xsa_last_n,
            gate=gate,
        )
        return linear(attended.flatten(2), weights.o)

    def _values(
        self, layer: int, weights: "LayerWeights", normed: Tensor, state: "Stream"
    ) -> Tensor:
        """The values (B, T, G * D), with value embedding and value residual where they are on."""
        values = self.ops.linear(normed, weights.v)
        if state.value_embedding is not None and layer in self.config.value_layers:
            scale = self.value_layer_scale[self.config.value_layers.index(layer)]
            values = values + scale.to(values.dtype) * state.value_embedding
        if self.config.value_residual:
            first = values if state.first_values is None else state.first_values
            state.first_values = first
            share = self.value_residual[layer].to(values.dtype)
            values = share[0] * first + share[1] * values
        return values

    def _embed(self, tokens: Tensor) -> Tensor:
        bigram = None
        if self.config.bigram_vocab_size:
            bigram = (self.bigram_table, self._copy(self.bigram_proj), self.bigram_scale)
        return self.ops.embed(
            tokens,
            self.tok_emb,
            self.smear_gate,
            dtype=self.dtype,
            eps=self.config.norm_eps,
            bos_id=self.config.bos_id if self.config.smear_bos_mask else None,
            bigram=bigram,
        )

    def _value_embedding(self, tokens: Tensor) -> Tensor | None:
        """What the value layers add, before their own scale: (B, T, G * D)."""
        if not self.config.value_layers:
            return None
        looked_up = nn.functional.embedding(tokens, self.value_table).to(self.dtype)
        projected = self.ops.linear(looked_up, self._copy(self.value_proj))
        return self.value_scale.to(self.dtype) * projected

    def _layer_weights(self, qat: Tensor | None) -> list["LayerWeights"]:
        """Compute copies of all banks, a whole bank at a time, cut into layers."""
        layers = self.config.num_layers
        queries_outputs, keys_values, up, down = (
            self.ops.quant(bank, self.dtype, qat, self.fake_step_floor).unbind()
            for bank in (self.qo_bank, self.kv_bank, self.up_bank, self.down_bank)
        )
        gates = [None] * layers
        if self.config.gated_attention:
            gates = self._copy(self.gate_weight).unbind()
        return [
            LayerWeights(
                q=queries_outputs[layer],
                o=queries_outputs[layers + layer],
                k=keys_values[layer],
                v=keys_values[layers + layer],
                up=up[layer],
                down=down[layer],
                gate=gates[layer],
            )
            for layer in range(layers)
        ]

    def _output_head(self) -> Tensor:
        return self._copy(self.tok_emb if self.config.tie_embeddings else self.head)

    def _copy(self, weight: Tensor) -> Tensor:
        return self.ops.quant(weight, self.dtype)


@dataclass
class LayerWeights:
    """Compute copies of one layer's matrices, each (out, in); ``gate`` (H, C) or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    up: Tensor
    down: Tensor
    gate: Tensor | None


@dataclass
class Stream:
    """What later layers of one forward pass read again."""

    x0: Tensor
    value_embedding: Tensor | None
    first_values: Tensor | None = None
    skips: list[Tensor] = field(default_factory=list)


def parameter(*shape: int) -> nn.Parameter:
    """An fp32 parameter; ``initialise`` gives it its values."""
    return nn.Parameter(torch.empty(shape, dtype=torch.float32))
