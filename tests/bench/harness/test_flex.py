"""FlexAttention's blocks are those that some position sees, and those that all positions see."""

import torch

from bench.harness.flex import BLOCK, block_mask
from kernels.attention.reference import document_bounds, window_bounds

ROWS, LENGTH, WINDOW = 2, 1024, 600


def test_blocks_are_those_of_all_positions():
    tokens = torch.randint(600, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    start = window_bounds(tokens, WINDOW, document_bounds(tokens, 1))[0]
    found = block_mask(start)
    row, query, key = torch.meshgrid(*map(torch.arange, (ROWS, LENGTH, LENGTH)), indexing="ij")
    seen = found.mask_mod(row, torch.zeros_like(row), query, key)
    assert torch.equal(seen, (key <= query) & (key >= start[..., None]))
    blocks = seen.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3).flatten(3)
    some, whole = blocks.any(3), blocks.all(3)
    assert whole.any()
    assert found.full_kv_num_blocks is not None
    assert found.full_kv_indices is not None
    listed = (found.kv_num_blocks, found.kv_indices, some & ~whole)
    full = (found.full_kv_num_blocks, found.full_kv_indices, whole)
    for numbers, indices, wanted in (listed, full):
        for at in torch.cartesian_prod(*map(torch.arange, wanted.shape[:2])).tolist():
            first = indices[at[0], 0, at[1]][: numbers[at[0], 0, at[1]]]
            assert first.tolist() == wanted[tuple(at)].nonzero().flatten().tolist()
