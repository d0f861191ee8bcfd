"""How much memory of a GPU a step takes, estimated from its sizes alone."""

import math

from kernels.loss.chunks import CHUNK_LOGITS
from model.config import Architecture
from model.parameters import parameters
from model.plan import Visit, plan
from settings import Settings
from settings.variants import Variant, accumulation_of
from training.optimizer import RULES

HALF, SINGLE = 2, 4  # bytes of bf16 and fp32
MOMENTS = {"muon": 1, "adamw": 2}  # of a parameter, by its rule's optimizer


def state_bytes(settings: Settings, ranks: int) -> int:
    """Return the bytes that a run keeps on each GPU between two steps.

    They are fp32 weights, gradients, moments and averages. The ranks share the moments and the
    averages of parameters whose rule has an axis.
    """
    total = 0
    averaged = settings.averaging == "ema"
    for spec in parameters(settings.architecture()):
        rule, size = RULES[spec.rule], SINGLE * math.prod(spec.shape)
        states = MOMENTS[rule.optimizer] + (averaged and spec.storage != "none")
        total += 2 * size + states * size // (1 if rule.axis is None else ranks)
    return total


def step_bytes(variant: Variant, settings: Settings, ranks: int) -> int:
    """Return the bytes that a micro-batch of backend ``kernels`` takes besides, in bf16.

    What the visits keep for the backward pass is by far the most.
    """
    config = settings.architecture()
    parts = accumulation_of(variant, settings, ranks)
    tokens = variant.batch_tokens // (ranks * parts)
    visits = plan(config, variant.loops)
    kept = sum(kept_bytes(config, visit) for visit in visits)
    copies = HALF * sum(math.prod(spec.shape) for spec in parameters(config))
    return tokens * (kept + passing_bytes(config)) + copies + loss_bytes(config, variant, tokens)


def kept_bytes(config: Architecture, visit: Visit) -> int:
    """Return the bytes of one token that a visit keeps for its backward pass.

    The entered stream, the two normed streams, query and attention's result (C each), key and
    value, the activation and its signs; and fp32 numbers a head: 1/rms, lse, XSA's projection.
    """
    width, kv, hidden, heads = config.model_dim, config.kv_dim, config.mlp_dim, config.num_heads
    lanes = 2 if visit.block == "parallel" else 1
    wide = (4 + lanes) * width + 2 * kv + hidden
    numbers = 2 * heads + config.num_kv_heads + 2 + (heads if visit.exclude_self else 0)
    return HALF * wide + hidden // 8 + SINGLE * numbers


def passing_bytes(config: Architecture) -> int:
    """Return the bytes of one token that the backward pass of a visit takes for itself.

    Gradients of the stream, of both normed streams, of query and result; of key, value, activation.
    """
    return HALF * (5 * config.model_dim + 2 * config.kv_dim + config.mlp_dim)


def loss_bytes(config: Architecture, variant: Variant, tokens: int) -> int:
    """Return the bytes of the loss: logits of two chunks, and the hidden state's gradient."""
    vocabulary = (1 + variant.heads) * config.vocab_size
    chunk = min(tokens * vocabulary, CHUNK_LOGITS)
    return HALF * (2 * chunk + tokens * config.model_dim)
