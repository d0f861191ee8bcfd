"""The items of work of the blocks of attention's Hopper kernels, and the tiles of each item.

A persistent grid has one block a multiprocessor. An item of work is a tile of 192 rows (or keys) of
one group of heads of one window. A row is (position, head of the group).

A block's loader chooses items and tells its consumers. Without documents an item's work follows
from its place, and items are taken in serpentine order. Documents make it uneven, and equal items
take some blocks a fifth longer than others. So a block then takes the next item of a counter
whenever it has loaded one. Results do not depend on who takes an item.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from kernels.common.device import is_hopper, multiprocessors
from kernels.common.hopper import CONSUMERS, WARPGROUP_ROWS, wait_empty, wait_full

HEAD_DIM = 64
ITEM_ROWS = CONSUMERS.value * WARPGROUP_ROWS
# As a head index: no item is left.
NONE = gl.constexpr(-1)


class Problem(NamedTuple):
    """Sizes: ``windows`` of ``length`` positions, G groups of GROUP query heads.

    ``tiles`` are the items of a window and group; documents (2, windows, length) int32 or None.
    ``counter`` (1,) int32 is 0 before a launch with documents, and None without.
    """

    windows: Any
    length: Any
    tiles: Any
    documents: Any
    counter: Any
    G: Any
    GROUP: Any


def heads_fit_hopper(q: Tensor, kv_heads: int, pairs: int) -> bool:
    """Return whether the Hopper kernels compute attention of q (B, T, H, D).

    They need a Hopper GPU, 16 bits, head dim 64, groups whose heads fill 64 rows evenly, and rotary
    pairs in one thread's registers.
    """
    on_hopper = is_hopper(q.device) and q.dtype in (torch.bfloat16, torch.float16)
    return on_hopper and heads_fit(q.size(2) // kv_heads, q.size(3), pairs)


def heads_fit(group: int, head_dim: int, pairs: int) -> bool:
    """Return whether there are kernels for groups of so many heads, with so many rotary pairs."""
    return head_dim == HEAD_DIM and group in (1, 2, 4, 8, 16) and pairs % 8 == 0


def schedule(
    query: Tensor, key: Tensor, documents: Tensor | None, rows: int
) -> tuple[Problem, tuple[int]]:
    """Return the problem of query (B, G, T * GROUP, D) and key (B, G, T, D), and the grid.

    ``rows`` are the rows or keys of a window and group that are cut into items.
    """
    B, G, T = key.shape[:3]
    tiles = -(-rows // ITEM_ROWS)
    heads = gl.constexpr(G), gl.constexpr(query.size(2) // T)
    grid = (min(tiles * B * G, multiprocessors(query.device)),)
    counter = None
    if documents is not None:
        counter = torch.zeros(1, dtype=torch.int32, device=query.device)
    return Problem(B, T, tiles, documents, counter, *heads), grid


@gluon.jit
def make_item():
    """Return shared memory for the item of a turn: its head index and its tile."""
    layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    return gl.allocate_shared_memory(gl.int32, [2, 1], layout)


@gluon.jit
def next_item(problem, turn, BY_KEYS: gl.constexpr):
    """Return head index and tile of the loader's next item; the head index is NONE if none is left.

    Without documents, items of a head get shorter from one to the next. Programs take them in
    serpentine order, so that each gets long and short ones.
    """
    items = problem.windows * problem.G * problem.tiles
    if problem.documents is None:
        programs = gl.num_programs(0)
        slot = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
        item = turn * programs + slot
        head_index, tile = item // problem.tiles, item % problem.tiles
        if not BY_KEYS:
            tile = problem.tiles - 1 - tile
    else:
        item = gl.atomic_add(problem.counter, 1, sem="relaxed")
        # Neighbours in this order read the same keys.
        places = problem.windows * problem.tiles
        head, place = item // places, item % places
        head_index, tile = place // problem.tiles * problem.G + head, place % problem.tiles
    return gl.where(item < items, head_index, NONE), tile


@gluon.jit
def announce(ring, turn, head_index, tile):
    """Tell the consumers the item of a turn: the first of two arrivals at its ring of one stage."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    wait_empty(ring, turn)
    ring.item.index(0).store(gl.full([1], head_index, gl.int32, layout))
    ring.item.index(1).store(gl.full([1], tile, gl.int32, layout))
    mbarrier.arrive(ring.full.index(0), count=1)


@gluon.jit
def end_items(ring, turn):
    """Tell the consumers that no item is left."""
    announce(ring, turn, NONE, 0)
    mbarrier.arrive(ring.full.index(0), count=1)


@gluon.jit
def take_item(ring, turn):
    """Wait for the item of a turn, and return its head index and its tile."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    wait_full(ring, turn)
    head_index = gl.sum(ring.item.index(0).load(layout), 0)
    return head_index, gl.sum(ring.item.index(1).load(layout), 0)


@gluon.jit
def visible_keys(problem, batch, first_row, ROWS: gl.constexpr, KEYS: gl.constexpr):
    """Return begin, a multiple of KEYS, and end of the keys that ``ROWS`` rows see."""
    first_row = gl.minimum(first_row, problem.length * problem.GROUP - 1)
    end = gl.minimum((first_row + ROWS - 1) // problem.GROUP + 1, problem.length)
    begin = 0
    if problem.documents is not None:
        starts = problem.documents + batch * problem.length
        begin = gl.load(starts + first_row // problem.GROUP) // KEYS * KEYS
    return begin, end


@gluon.jit
def unmasked_keys(problem, batch, first_row, row, begin, KEYS: gl.constexpr):
    """Return the first key that each of 64 rows sees (64,), and begin and end of a range of keys.

    All 64 rows see the range; its ends are multiples of KEYS. The argument ``begin`` is the begin
    of the visible keys.
    """
    position = row // problem.GROUP
    start = gl.zeros_like(position)
    if problem.documents is not None:
        starts = problem.documents + batch * problem.length
        start = gl.load(starts + position, mask=row < problem.length * problem.GROUP, other=0)
        last = gl.minimum((first_row + 63) // problem.GROUP, problem.length - 1)
        begin = gl.cdiv(gl.load(starts + last), KEYS) * KEYS
    return start, begin, (first_row // problem.GROUP + 1) // KEYS * KEYS


@gluon.jit
def visible_rows(problem, batch, first_key, KEYS: gl.constexpr, ROWS: gl.constexpr):
    """Return begin, a multiple of ROWS, and end of the rows that see one of ``KEYS`` keys."""
    begin = gl.minimum(first_key, problem.length) * problem.GROUP // ROWS * ROWS
    stop = problem.length
    if problem.documents is not None:
        last = gl.minimum(first_key + KEYS, problem.length) - 1
        stop = gl.load(problem.documents + (problem.windows + batch) * problem.length + last)
    return begin, gl.maximum(stop * problem.GROUP, begin)


@gluon.jit
def unmasked_rows(problem, batch, first_key, key, ROWS: gl.constexpr):
    """Return the stop of each of 64 keys (64,), and begin and end of a range of rows.

    A key's stop is the first later position that does not see it. All rows of the range see all of
    these keys; its ends are multiples of ROWS.
    """
    stop = gl.zeros_like(key) + problem.length
    end = problem.length
    if problem.documents is not None:
        stops = problem.documents + (problem.windows + batch) * problem.length
        stop = gl.load(stops + key, mask=key < problem.length, other=0)
        end = gl.load(stops + gl.minimum(first_key, problem.length - 1))
    begin = gl.cdiv((first_key + 63) * problem.GROUP, ROWS) * ROWS
    return stop, begin, end * problem.GROUP // ROWS * ROWS
