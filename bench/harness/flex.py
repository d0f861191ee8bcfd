"""FlexAttention as the attention of a whole network, inside documents and windows."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from kernels import Operations, operations
from kernels.attention import reference
from model.gpt import GPT
from training.trainer import Trainer

BLOCK = 128


class FlexTrainer(Trainer):
    """A trainer whose network is the reference's around FlexAttention, for backend compiled."""

    def _make_model(self, scores: np.ndarray | None, edges: np.ndarray | None) -> GPT:
        return super()._make_model(scores, edges).computed_by(flex_operations())


def flex_operations() -> Operations:
    """Return the reference's operations around FlexAttention, which only torch.compile fuses."""
    found = operations("reference")
    # Dynamo does not look into it: if it does, it forgets that a visit has set
    # ``ResidualState.lane``, and compiles another network.
    attend = torch._dynamo.nonstrict_trace(flex)
    attention = partial(reference.attention, attend=attend)
    composed = reference.compose(found, attention)
    return replace(found, attention=attention, self_attention=composed)


def flex(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None) -> Tensor:
    """Compute ``kernels.attention.reference.causal``; T is a multiple of ``BLOCK``."""
    if documents is None:
        raise ValueError("FlexAttention is only measured inside documents")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = block_mask(documents[0])
    found = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    assert isinstance(found, Tensor)  # not with the rows' log-sums
    return found.transpose(1, 2)


def block_mask(start: Tensor, block: int = BLOCK) -> BlockMask:
    """Return the mask of what each position sees: from its start to itself.

    Its blocks follow from the starts, so a step makes it in little time: ``create_block_mask``
    evaluates all T x T positions.

    Args:
        start: (B, T) int32, which never falls within a row.
        block: tokens of a block.
    """
    starts = start.view(len(start), -1, block)
    number = torch.arange(starts.size(1), dtype=torch.int32, device=start.device)
    seen = (number <= number[:, None]) & (number >= (starts[..., 0] // block)[..., None])
    whole = (number < number[:, None]) & (number * block >= starts[..., -1:])

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= start[row, query])

    blocks = (*listed(seen & ~whole), *listed(whole))
    return BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=block, mask_mod=visible)


def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of a row's blocks are set, and all blocks, those that are set first.

    Args:
        blocks: (B, N, N) boolean, by block of queries and of keys.

    Returns:
        (B, 1, N) and (B, 1, N, N) int32.
    """
    order = blocks.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None]
