"""Entries at preset frontier's sizes, to be timed outside of pytest."""

from collections.abc import Iterator

from bench.harness.operation import DIRECTIONS, Entry
from bench.kernels import test_attention, test_embed, test_lanes, test_loss, test_mlp, test_norm

# A loss's forward pass makes the gradients, too, so it has no floor of its own.
EACH, WHOLE = DIRECTIONS[:2], DIRECTIONS[2:]


def entries() -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """Yield each operation, when it is its turn, with the directions to time. They need a GPU."""
    yield test_norm.norm_of(*test_norm.WITH_GATE), EACH
    yield test_norm.norm_of(*test_norm.MIDDLE), EACH
    yield test_mlp.mlp_of(test_mlp.WIDER), EACH
    yield test_attention.attention_of_documents(), EACH
    yield test_attention.attention_of_input(), EACH
    yield test_loss.wide_entry("loss of 8,192 pieces", test_loss.run_wide, peers={}), WHOLE
    yield test_embed.embed_of(*test_embed.OF_WINDOW), EACH
    yield test_lanes.lanes_of(*test_lanes.PLAIN), EACH
    yield test_lanes.lanes_of(*test_lanes.GATED), EACH
    yield test_embed.quant_of(test_mlp.WIDER), EACH
