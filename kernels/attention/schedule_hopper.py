"""The items of work of the blocks of attention's Hopper kernels, and the tiles of each item.

A persistent grid has one block a multiprocessor. An item of work is a tile of 192 rows (or keys) of
one group of heads of one window. A row is (position, head of the group).

Without documents an item's work follows from its place, and items are dealt in serpentine order.
Documents make it uneven: 31 items a block would differ by a tenth in their sum, and the slowest of
132 blocks by a third. So each block counts the tiles of all items and takes a run of them that is
its share of the work. It is deterministic, and neighbours in a run read the same keys.
"""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.common.device import is_hopper, multiprocessors
from kernels.common.hopper import CONSUMERS, WARPGROUP_ROWS

HEAD_DIM = 64
ITEM_ROWS = CONSUMERS.value * WARPGROUP_ROWS
# Places whose work is counted at once: 16 a thread.
PLACES = gl.constexpr(2048)
# What an item takes beside its tiles, in tiles of 64: first loads, last products, epilogue.
OVERHEAD = gl.constexpr(3)


class Problem(NamedTuple):
    """Sizes: ``windows`` of ``length`` positions, G groups of GROUP query heads.

    ``tiles`` are the items of a window and group; documents (2, windows, length) int32 or None.
    """

    windows: Any
    length: Any
    tiles: Any
    documents: Any
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
    return Problem(B, T, tiles, documents, *heads), grid


class Share(NamedTuple):
    """A block's items: ``count`` from ``first`` on; without documents none is named."""

    first: Any
    count: Any


@gluon.jit
def own_share(problem, BY_KEYS: gl.constexpr, TILE: gl.constexpr):
    """Return this block's share. Items are of keys if BY_KEYS, and take tiles of TILE rows.

    Otherwise items are of rows, and take tiles of TILE keys.
    """
    first = 0
    count = 0
    if problem.documents is not None:
        places = problem.windows * problem.tiles
        total = 0
        for begin in range(0, places, PLACES):
            total += gl.sum(item_work(problem, begin, BY_KEYS, TILE), 0)
        part = gl.cdiv(total * problem.G, gl.num_programs(0))
        goal = gl.minimum(gl.program_id(0) * part, total * problem.G)
        next_goal = gl.minimum(goal + part, total * problem.G)
        # An item is of the block in whose part its middle lies.
        first = goal // total * places
        end = next_goal // total * places
        before = 0
        for begin in range(0, places, PLACES):
            work = item_work(problem, begin, BY_KEYS, TILE)
            twice_middle = 2 * (before + gl.associative_scan(work, 0, add)) - work
            known = work > 0
            first += gl.sum((known & (twice_middle < 2 * (goal % total))).to(gl.int32), 0)
            end += gl.sum((known & (twice_middle < 2 * (next_goal % total))).to(gl.int32), 0)
            before += gl.sum(work, 0)
        count = end - first
    return Share(first, count)


@gluon.jit
def item_work(problem, begin, BY_KEYS: gl.constexpr, TILE: gl.constexpr):
    """Return the work of a head's items at PLACES places from ``begin`` on; 0 beyond the last.

    A place is (window, tile).
    """
    layout: gl.constexpr = gl.BlockedLayout([PLACES // 128], [32], [4], [0])
    place = begin + gl.arange(0, PLACES, layout)
    exists = place < problem.windows * problem.tiles
    place = gl.where(exists, place, 0)
    batch, first = place // problem.tiles, place % problem.tiles * (CONSUMERS * 64)
    if BY_KEYS:
        seen, end = visible_rows(problem, batch, first, CONSUMERS * 64, TILE)
    else:
        seen, end = visible_keys(problem, batch, first, CONSUMERS * 64, TILE)
    return gl.where(exists, gl.cdiv(end - seen, TILE) + OVERHEAD * 64 // TILE, 0)


@gluon.jit
def add(a, b):
    """Return a + b."""
    return a + b


@gluon.jit
def turn_count(problem, share):
    """Return how many items this block may take, one a turn."""
    count = share.count
    if problem.documents is None:
        count = gl.cdiv(problem.windows * problem.G * problem.tiles, gl.num_programs(0))
    return count


@gluon.jit
def work_item(problem, share, turn, BY_KEYS: gl.constexpr):
    """Return the item of a block's ``turn``-th turn: whether there is one, head index and tile.

    Without documents, items of a head get shorter from one to the next. Programs take them in
    serpentine order, so that each gets long and short ones.
    """
    if problem.documents is None:
        programs = gl.num_programs(0)
        slot = gl.where(turn % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))
        item = turn * programs + slot
        head_index, tile = item // problem.tiles, item % problem.tiles
        if not BY_KEYS:
            tile = problem.tiles - 1 - tile
    else:
        item = share.first + turn
        places = problem.windows * problem.tiles
        head, place = item // places, item % places
        head_index, tile = place // problem.tiles * problem.G + head, place % problem.tiles
    return item < problem.windows * problem.G * problem.tiles, head_index, tile


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
