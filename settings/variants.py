"""Variants: what a step computes, of each stage and of each choice of the swarm. Pure Python."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from errors import InputError
from settings import Settings
from settings.section import Precision
from settings.stages import Stage, or_one

Value = TypeVar("Value")
MOST_VARIANTS = 8  # each takes time to capture before the clock starts, and memory
# Setting with the options of a choice lever, by the lever's name: a field of `Variant`.
CHOICES = {"window": "swarm_windows", "loops": "swarm_loops", "heads": "swarm_heads"}


@dataclass(frozen=True)
class Variant:
    """What a step is captured for. Equal variants replay the same graphs.

    Attributes:
        batch_tokens: tokens a step, over all ranks.
        seq_len: tokens a window of the data.
        loops: further passes of the recurrent layers.
        window: tokens that a position sees, itself included; 0: the whole context.
        near_window: the same in the near layers, if fewer; 0: as in the others.
        documents: whether a position sees its own document only.
        heads: MTP heads that are trained.
        precision: of the products.
    """

    batch_tokens: int
    seq_len: int
    loops: int = 0
    window: int = 0
    near_window: int = 0
    documents: bool = False
    heads: int = 0
    precision: Precision = "native"


def stage_variants(settings: Settings) -> tuple[Variant, ...]:
    """Return the variant of each stage, in order; of one stage if the settings name none."""
    return tuple(variant_of(stage, settings) for stage in or_one(settings.stages))


def variant_of(stage: Stage, settings: Settings) -> Variant:
    """Return a stage's variant; what the stage does not name is the setting's."""
    return Variant(
        batch_tokens=_first(stage.train_batch_tokens, settings.train_batch_tokens),
        seq_len=_first(stage.train_seq_len, settings.train_seq_len),
        loops=_first(stage.loops, settings.num_loops),
        window=_first(stage.window, settings.window),
        near_window=_first(stage.near_window, settings.near_window),
        documents=_first(stage.documents, settings.document_mask),
        heads=_first(stage.mtp_num_heads, settings.mtp_num_heads),
        precision=stage.precision or "native",
    )


def trains_in_fp8(settings: Settings) -> bool:
    """Return whether a stage has products in fp8."""
    return any(variant.precision == "fp8" for variant in stage_variants(settings))


def with_choices(variant: Variant, chosen: Mapping[str, float]) -> Variant:
    """Return the variant with the swarm's choices in place of its own fields.

    Args:
        chosen: value of each choice lever that the swarm decided, by name; others are ignored.
    """
    fields = {field: int(chosen[field]) for field in CHOICES if field in chosen}
    return replace(variant, **fields) if fields else variant


def reachable(settings: Settings) -> tuple[Variant, ...]:
    """Return every variant that a run may take: its stages, with each choice of the swarm.

    Returns:
        without repetition; the last stage's first.

    Raises:
        InputError: a variant is impossible, or there are more than ``MOST_VARIANTS``.
    """
    found: dict[Variant, None] = {}
    for variant in reversed(stage_variants(settings)):
        found |= dict.fromkeys(_with_each_choice(variant, settings))
    for variant in found:
        _check(variant, settings)
    if len(found) > MOST_VARIANTS:
        raise InputError(
            f"stages and choices of the swarm make {len(found)} variants of a step, which is more "
            f"than {MOST_VARIANTS}: give fewer stages or options"
        )
    return tuple(found)


def accumulation_of(variant: Variant, settings: Settings, ranks: int) -> int:
    """Return the micro-batches that a rank takes in a step.

    Raises:
        InputError: the batch's windows cannot be split evenly over the ranks.
    """
    windows = variant.batch_tokens // variant.seq_len
    if windows % ranks:
        step = ranks * variant.seq_len
        nearest = max(step, round(variant.batch_tokens / step) * step)
        raise InputError(
            f"train_batch_tokens {variant.batch_tokens} is {windows} windows of "
            f"{variant.seq_len}, which {ranks} ranks cannot share; try {nearest}"
        )
    rows = windows // ranks
    most = max(1, settings.micro_batch_tokens // variant.seq_len)
    return next(parts for parts in divisors(rows) if rows // parts <= most)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number in order, after as many steps as its root is large."""
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


def visited_tokens(variant: Variant, settings: Settings) -> int:
    """Return tokens times visits of a step: its work, but for attention and the loss."""
    visits = settings.num_layers + variant.loops * len(settings.loop_layers)
    return variant.batch_tokens * visits


def check_variants(settings: Settings, ranks: int) -> None:
    """Refuse settings whose variants ``ranks`` ranks cannot run.

    Raises:
        InputError: a variant is impossible, there are too many, or a batch cannot be split.
    """
    for variant in reachable(settings):
        accumulation_of(variant, settings, ranks)


def _first(own: Value | None, otherwise: Value) -> Value:
    return otherwise if own is None else own


def _with_each_choice(variant: Variant, settings: Settings) -> Iterator[Variant]:
    options = {
        field: (getattr(variant, field), *(getattr(settings, setting) if settings.swarm else ()))
        for field, setting in CHOICES.items()
    }
    for values in product(*options.values()):
        yield with_choices(variant, dict(zip(options, values, strict=True)))


def _check(variant: Variant, settings: Settings) -> None:
    batch, length = variant.batch_tokens, variant.seq_len
    faults = {
        f"train_batch_tokens {batch} is no multiple of train_seq_len {length}": batch % length,
        f"{variant.heads} MTP heads need a longer train_seq_len than {length}": (
            variant.heads >= length
        ),
        f"mtp_targets {settings.mtp_targets} excludes MTP heads: give mtp_num_heads 0": (
            settings.mtp_targets and variant.heads
        ),
        f"mtp_targets {settings.mtp_targets} needs a longer train_seq_len than {length}": (
            settings.mtp_targets >= length
        ),
        f"{variant.heads} MTP heads are more than the network's mtp_num_heads "
        f"{settings.mtp_num_heads}": variant.heads > settings.mtp_num_heads,
        f"{variant.loops} loops are more than the network's num_loops {settings.num_loops}": (
            variant.loops > settings.num_loops
        ),
        f"near_window {variant.near_window} needs near_layers": (
            variant.near_window and not settings.near_layers
        ),
    }
    for fault, found in faults.items():
        if found:
            raise InputError(fault)
