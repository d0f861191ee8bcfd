"""GPT with U-net skips, residual mixes, value embeddings and XSA (parameter-golf PR #1081)."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kernels import Operations
from kernels.attention.reference import document_bounds, window_bounds
from kernels.operand import Operand, rows_of
from model.blocks import BLOCKS, LayerWeights, Pass, ResidualState
from model.config import Architecture
from model.hooks import HEAD, ProductHook, hooked
from model.initial_weights import initialise
from model.parameters import EDGES, GATE_SCALE, parameters
from model.plan import Plan, plan
from model.skips import entries


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
        embedding_gain: (V,) fp32, what each token's initial embedding is multiplied by.
        edges: (2, E) integers, pairs of tokens as ``kernels.embed.Embed`` takes them, if the
            bigram table has rows of such pairs; None: zeros, until ``load_state_dict`` sets them.
    """

    rope: Tensor
    edges: Tensor | None

    if TYPE_CHECKING:
        # Attributes besides those set below are the parameters of ``model.parameters``.
        def __getattr__(self, name: str) -> Tensor: ...

    def __init__(
        self,
        config: Architecture,
        ops: Operations,
        *,
        dtype: torch.dtype,
        max_seq_len: int,
        seed: int,
        fake_step_floor: float = 0.0,
        embedding_gain: Tensor | None = None,
        edges: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops, self.dtype = config, ops, dtype
        self.fake_step_floor = fake_step_floor
        self.plan = plan(config)
        for spec in parameters(config):
            values = torch.empty(spec.shape, dtype=torch.float32)
            self.register_parameter(spec.name, nn.Parameter(values))
        table = ops.rope_table(max_seq_len, config.rope_dims, config.rope_base, torch.device("cpu"))
        self.register_buffer("rope", table, persistent=False)
        shape = (2, config.num_edges)
        self.register_buffer(EDGES, torch.zeros(shape, dtype=torch.int32) if shape[1] else None)
        if self.edges is not None and edges is not None:
            self.edges.copy_(edges)
        initialise(self, config, seed, embedding_gain)

    def computed_by(self, ops: Operations) -> "GPT":
        """Return a network of the same parameters that computes by other operations."""
        other = copy(self)
        other.ops = ops
        return other

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        plan: Plan | None = None,
        bounds: Tensor | None = None,
        heads: int | None = None,
        mtp_weight: Tensor | None = None,
        qat: Tensor | None = None,
        target_weight: Tensor | None = None,
        precision: str = "native",
    ) -> tuple[Tensor, Tensor]:
        """Training loss () fp32, and each token's nats (B, T) fp32 of the main head.

        Args:
            tokens: (B, T) int32.
            targets: (B, T) int32, the next tokens.
            plan, bounds: as for ``hidden``.
            heads: how many MTP heads are trained, the first ones; None: all.
            mtp_weight: () fp32 lever of the MTP heads, or (K,) fp32 weights of the main head's
                targets after the next; None: only the next token is predicted.
            qat: () fp32 lever, int6-faked weights where > 0.5; None: never.
            target_weight: (V,) fp32 weight of each target token.
            precision: as for ``hidden``.
        """
        heads = self.config.mtp_num_heads if heads is None else heads
        further = mtp_weight is not None and mtp_weight.dim() > 0
        return self.ops.loss(
            self.hidden(tokens, plan=plan, bounds=bounds, qat=qat, precision=precision),
            self.output_head(),
            targets,
            softcap=self.config.logit_softcap,
            mtp_heads=self._mtp_heads(heads) if heads and mtp_weight is not None else None,
            mtp_weight=None if further else mtp_weight,
            target_weight=target_weight,
            further_weights=mtp_weight if further else None,
        )

    def score(self, tokens: Tensor, targets: Tensor, hook: ProductHook | None = None) -> Tensor:
        """Return nats (B, S) fp32 of the last S positions of tokens (B, T); targets are (B, S)."""
        return self.loss_of_last(tokens, targets, hook)[1]

    def loss_of_last(
        self, tokens: Tensor, targets: Tensor, hook: ProductHook | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss () fp32 of the last S positions, and their nats (B, S) fp32.

        Args:
            tokens: (B, T) int32.
            targets: (B, S) int32, the next tokens of the last S positions.
            hook: is passed the matrix products, the head's included.
        """
        hidden = self.hidden(tokens, hook=hook)[:, -targets.size(1) :]
        hidden = hooked(hook, HEAD, hidden, hidden)
        softcap = self.config.logit_softcap
        return self.ops.loss(hidden, self.output_head(), targets, softcap=softcap)

    def hidden(
        self,
        tokens: Tensor,
        *,
        plan: Plan | None = None,
        bounds: Tensor | None = None,
        qat: Tensor | None = None,
        hook: ProductHook | None = None,
        precision: str = "native",
    ) -> Tensor:
        """Return the final normed state (B, T, C).

        Args:
            tokens: (B, T) int32.
            plan: the visits; None: the architecture's.
            bounds: (2, B, T) int32 of documents as ``kernels.attention.reference.document_bounds``
                makes them, inside which all visits stay; None: made from the tokens for visits
                that need them.
            qat: () fp32 lever, int6-faked weights if > 0.5; None: never.
            hook: is passed the layers' matrix products; None: all operations stay fused.
            precision: of the MLPs' products: "native" (the compute dtype) or "fp8". All others are
                native.
        """
        visits = self.plan if plan is None else plan
        stream = self.embed(tokens)
        rope = self.rope[:, : tokens.size(1)]
        run = self.pass_of(tokens, visits, rope, self._bounds(tokens, visits, bounds), hook)
        return self.visited(stream, run, visits, self.layer_weights(qat, precision))

    def pass_of(
        self,
        tokens: Tensor,
        visits: Plan,
        rope: Tensor,
        bounds: Mapping[tuple[bool, int | None], Tensor | None],
        hook: ProductHook | None = None,
    ) -> Pass:
        """Return what the visits of one forward pass share; see ``Pass`` for the arguments."""
        return Pass(
            self.ops,
            self.config,
            hook,
            rope=rope,
            lookup=self._value_lookup(tokens),
            entries=entries(
                visits,
                self.mix.unbind(),
                self.skip_weight if self.config.num_skips else None,
                self.skip_gate if self.config.num_skips and self.config.skip_gates else None,
            ),
            bounds=bounds,
            read_later={v.skip for n, v in enumerate(visits) if v.skip not in (None, n - 1)},
        )

    def visited(
        self, stream: Tensor, run: Pass, visits: Plan, weights: Sequence[LayerWeights]
    ) -> Tensor:
        """Return the final normed state (B, T, C) of an embedded input (B, T, C).

        Args:
            stream: of ``embed``.
            run: of ``pass_of``.
            visits: in order.
            weights: of ``layer_weights``.
        """
        state = ResidualState(x0=stream)
        for number, visit in enumerate(visits):
            block = BLOCKS[visit.block]
            stream = block(run, weights[visit.layer], stream, number, visit, state)
        if state.lane is not None:
            stream = torch.lerp(stream, state.lane, 0.5)
        return run.ops.norm(stream, scale=1.0, eps=self.config.norm_eps)[1]

    def _bounds(
        self, tokens: Tensor, visits: Plan, given: Tensor | None
    ) -> dict[tuple[bool, int | None], Tensor | None]:
        """Return the bounds of each combination of documents and window in the plan, made once."""
        kinds = dict.fromkeys((visit.documents, visit.window) for visit in visits)
        if given is None and any(documents for documents, _ in kinds):
            of_documents = document_bounds(tokens, self.config.bos_id)
        else:
            of_documents = given
        found = {}
        for documents, window in kinds:
            inside = None if given is None and not documents else of_documents
            whole = window is None
            found[documents, window] = inside if whole else window_bounds(tokens, window, inside)
        return found

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embedded input (B, T, C) of tokens (B, T)."""
        bigram = None
        if self.config.bigram_vocab_size:
            bigram = (self.bigram_table, self._copy(self.bigram_proj).values, self.bigram_scale)
        return self.ops.embed(
            tokens,
            self.tok_emb,
            self.smear_gate,
            dtype=self.dtype,
            eps=self.config.norm_eps,
            bos_id=self.config.bos_id if self.config.smear_bos_mask else None,
            bigram=bigram,
            smear_scale=self.smear_scale if self.config.smear_window else None,
            edges=self.edges,
        )

    def _value_lookup(self, tokens: Tensor) -> Tensor | None:
        """Rows of the value table (B, T, E), which value layers project and add."""
        if not self.config.value_layers:
            return None
        return nn.functional.embedding(tokens, self._copy(self.value_table).values)

    def layer_weights(
        self, qat: Tensor | None = None, precision: str = "native"
    ) -> list[LayerWeights]:
        """Return compute copies of all banks, cut into layers.

        Each bank is cut at once, because a gradient of one layer's slice would be as large as the
        bank.

        Q, K and V of a layer become one matrix. What scales a branch scales the rows of the matrix
        that writes it; Q's rows, in one bank with O's, have factors of one.
        """
        copied = partial(self._copy, qat=qat)
        mlps = self._mlps(partial(copied, fp8=precision == "fp8"))
        ones = torch.ones_like(self.attn_scale)
        row_scale = torch.cat((ones, self.attn_scale))
        queries, outputs = copied(self.qo_bank, row_scale=row_scale).halves()
        keys, values = copied(self.kv_bank).halves()
        layers = range(self.config.num_layers)
        of_layers = zip(
            layers,
            self.q_gain.unbind(),
            rows_of(queries, keys, values).unbind(),
            outputs.unbind(),
            (partial(mlps, layer) for layer in layers),
            *(map(some.get, layers) for some in self._weights_of_some_layers()),
            strict=True,
        )
        return [LayerWeights(*of_layer) for of_layer in of_layers]

    def _mlps(self, copied: Callable[..., Operand]) -> Callable[[int], tuple[Operand, Operand]]:
        """Return what returns a layer's up and down; the first call copies both banks.

        That call is after the first layer's attention. Autograd goes backward through what was made
        last, so the banks' gradients are complete before it goes through that attention.
        """
        made: list[tuple[Operand, Operand]] = []

        def mlp(layer: int) -> tuple[Operand, Operand]:
            if not made:
                ups = copied(self.up_bank).unbind()
                downs = copied(self.down_bank, row_scale=self.mlp_scale).unbind()
                made.extend(zip(ups, downs, strict=True))
            return made[layer]

        return mlp

    def _weights_of_some_layers(self) -> tuple[dict[int, Any], ...]:
        """Return by layer: gates, value projections and mixes, lanes' factors, gates of windows."""
        config, layers = self.config, range(self.config.num_layers)
        gates, lookups, value_mixes, lanes, windows = {}, {}, {}, {}, {}
        if config.gated_attention:
            matrices = self._copy(self.gate_weight).values.unbind()
            gates = {layer: (matrices[layer], self.gate_bias[layer]) for layer in layers}
        if config.value_layers:
            scales = self.value_scale * self.value_layer_scale
            copies = self._copy(scales[:, None, None] * self.value_proj).values
            lookups = dict(zip(config.value_layers, copies.unbind(), strict=True))
        if config.value_residual:
            value_mixes = {layer: self.value_residual[layer] for layer in layers}
        if config.parallel_layers:
            factors = zip(self.lane_keep.unbind(), self.lane_mix.unbind(), strict=True)
            lanes = dict(zip(config.parallel_layers, factors, strict=True))
        if config.gate_window:
            windows = dict(enumerate((GATE_SCALE * self.gate_weight).unbind()))
        return gates, lookups, value_mixes, lanes, windows

    def _mtp_heads(self, heads: int) -> Operand:
        """Return the compute copies of the first ``heads`` MTP heads.

        Raises:
            ValueError: there are fewer.
        """
        available = self.config.mtp_num_heads
        if heads > available:
            raise ValueError(f"{heads} MTP heads, but the network has mtp_num_heads {available}")
        return self._copy(self.mtp_heads if heads == available else self.mtp_heads[:heads])

    def output_head(self) -> Operand:
        """Return the compute copy of the output head, (V, C)."""
        return self._copy(self.tok_emb if self.config.tie_embeddings else self.head)

    def _copy(
        self,
        weight: Tensor,
        qat: Tensor | None = None,
        row_scale: Tensor | None = None,
        fp8: bool = False,
    ) -> Operand:
        return self.ops.quant(weight, self.dtype, qat, self.fake_step_floor, row_scale, fp8)
