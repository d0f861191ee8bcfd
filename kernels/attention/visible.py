"""Common code of attention's Triton kernels: sizes, loads, and the tiles visible to a tile."""

# pyright: basic, reportIndexIssue=false, reportCallIssue=false
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from kernels.attention import Kept
from kernels.attention.saved import Saved
from kernels.common.launch import Launch

TINY_NORM = tl.constexpr(1e-12)


class Problem(NamedTuple):
    """Sizes: windows of ``length`` positions, G groups of GROUP query heads.

    documents are (2, B, T) int32 or None.
    """

    length: Any
    documents: Any
    G: Any
    GROUP: Any


class Keys(NamedTuple):
    """Keys (B, G, T, D), values (B, T, G, D), and elements between tokens of the values.

    A program has a copy whose pointers begin at its window and group.
    """

    key: Any
    v: Any
    v_stride: Any


class Ring(NamedTuple):
    """``kernels.attention.Kept``: the cache, a pointer to the chunk's place, the ring's places.

    ``stride`` is the elements between documents, ``to_values`` those from keys to values.
    """

    cache: Any
    place: Any
    places: Any
    stride: Any
    to_values: Any


def ring_argument(kept: Kept | None) -> Ring | None:
    """Return a kernel's argument of what is kept."""
    if kept is None:
        return None
    cache = kept.cache
    return Ring(cache, kept.place, cache.size(2), cache.stride(1), cache.stride(0))


def problem_argument(saved: Saved) -> Problem:
    """Return a kernel's argument with the sizes."""
    G, T = saved.key.shape[1:3]
    return Problem(T, saved.documents, tl.constexpr(G), tl.constexpr(saved.group))


def keys_argument(key: Tensor, v: Tensor) -> Keys:
    """Return a kernel's argument of key (B, G, T, D) and v (B, T, G, D)."""
    return Keys(key, v, v.stride(1))


def launch_for(table: dict[int, Launch], head_dim: int) -> Launch:
    """Return the entry of the smallest head dim in ``table`` that is no less than ``head_dim``."""
    return table[min(size for size in table if size >= head_dim)]


@triton.jit
def head_keys(keys, problem, D: tl.constexpr):
    """Return the keys of the window and group that is ``program_id(1)``."""
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    key = keys.key + tl.program_id(1).to(tl.int64) * problem.length * D
    v = keys.v + (batch.to(tl.int64) * problem.length * keys.v_stride + head * D)
    return Keys(key, v, keys.v_stride)


@triton.jit
def visible_keys(
    problem, first_token, position, valid, tile, ROWS: tl.constexpr, KEYS: tl.constexpr
):
    """Return the keys that a tile of rows sees, in tiles of KEYS.

    These are the first key of each row, begin and end of the keys that some row sees, whole_begin,
    and the number ``whole`` of keys from there that all rows see.
    """
    first_position = tile * ROWS // problem.GROUP
    last_row = tl.minimum((tile + 1) * ROWS, problem.length * problem.GROUP) - 1
    last_position = last_row // problem.GROUP
    whole_end = (first_position + 1) // KEYS * KEYS
    start = tl.zeros_like(position)
    begin = 0
    whole_begin = 0
    if problem.documents is not None:
        starts_ptr = problem.documents + first_token
        start = tl.load(starts_ptr + position, mask=valid, other=0)
        # A negative start: this row sees kept keys, too (``kept_keys``).
        begin = tl.maximum(tl.load(starts_ptr + first_position), 0) // KEYS * KEYS
        whole_begin = tl.cdiv(tl.maximum(tl.load(starts_ptr + last_position), 0), KEYS) * KEYS
    whole = tl.maximum(whole_end - whole_begin, 0)
    return start, begin, last_position + 1, whole_begin, whole


@triton.jit
def kept_places(ring, problem, first_token, tile, ROWS: tl.constexpr):
    """Return the chunk's first position, and how many positions before it a tile of rows sees."""
    start = tl.load(problem.documents + first_token + tile * ROWS // problem.GROUP)
    return tl.load(ring.place).to(tl.int32), -tl.minimum(start, 0)


@triton.jit
def kept_keys(ring, place, first, query, start, problem, KEYS: tl.constexpr):
    """Return kept keys and values (KEYS, D), and scores (ROWS, KEYS).

    Their positions are those from ``first`` on, relative to the chunk at ``place``. ``start``
    (ROWS,) is the first position that a row sees; scores of others are minus infinity.
    """
    D: tl.constexpr = query.shape[1]
    batch, head = tl.program_id(1) // problem.G, tl.program_id(1) % problem.G
    position = first + tl.arange(0, KEYS)
    line = batch.to(tl.int64) * ring.stride + head * D
    line += (place + position) % ring.places * (problem.G * D)
    ptrs, inside = ring.cache + line[:, None] + tl.arange(0, D), (position < 0)[:, None]
    key = tl.load(ptrs, mask=inside, other=0.0)
    value = tl.load(ptrs + ring.to_values.to(tl.int64), mask=inside, other=0.0)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    seen = (position >= start[:, None]) & (position < 0)
    return key, value, tl.where(seen, scores, -float("inf"))


@triton.jit
def visible_rows(problem, first_token, key, valid, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Return the rows that see a tile of keys, in tiles of ROWS.

    These are each key's stop (the first later position that does not see it), begin and end of the
    rows that see some key, whole_begin, and the number ``whole`` of rows from there that see all
    keys.
    """
    first_key = tl.program_id(0) * KEYS
    last_key = tl.minimum(first_key + KEYS, problem.length) - 1
    stop = tl.zeros_like(key) + problem.length
    first_stop = problem.length
    all_stop = problem.length
    if problem.documents is not None:
        windows = tl.num_programs(1) // problem.G
        stops_ptr = problem.documents + first_token + windows * problem.length
        stop = tl.load(stops_ptr + key, mask=valid, other=0)
        first_stop = tl.load(stops_ptr + first_key)
        all_stop = tl.load(stops_ptr + last_key)
    begin = first_key * problem.GROUP
    whole_begin = begin + tl.cdiv((last_key - first_key) * problem.GROUP, ROWS) * ROWS
    whole = tl.maximum(first_stop * problem.GROUP - whole_begin, 0) // ROWS * ROWS
    return stop, begin, all_stop * problem.GROUP, whole_begin, whole


@triton.jit
def load_rows(ptr, row, stride, rows, MASKED: tl.constexpr, D: tl.constexpr):
    """Return rows of D; zeros beyond the last if MASKED."""
    ptrs = ptr + row[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(ptrs, mask=(row < rows)[:, None], other=0.0) if MASKED else tl.load(ptrs)


@triton.jit
def unit(v):
    """Return v / |v| in fp32, and 1 / |v|, as torch.nn.functional.normalize computes them."""
    v = v.to(tl.float32)
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(v * v, 1)), TINY_NORM)
    return v * inverse[:, None], inverse
