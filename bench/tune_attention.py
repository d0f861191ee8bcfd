"""Time attention's kernels at every tile size worth trying: ``python -m bench.tune_attention``.

Prints milliseconds, fastest first, of each kernel by itself at the real size, after its results
were seen to agree with those at the stored sizes. Entries to copy into the kernels' tables.
"""

import itertools
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from bench.sizes import EPS, HEAD_DIM, KEY_HEADS, QUERY_HEADS, ROPE_DIMS, TIME, WINDOWS, random
from kernels import reference
from kernels.attention_forward import FORWARD_TILES, Tiles, attend
from kernels.attention_key_gradients import KEY_TILES, key_gradients
from kernels.attention_query_gradients import QUERY_TILES, query_gradients
from kernels.rotary import turned_keys

# (rows, keys, warps, registers): those that the assembler made without spills, or with a few bytes.
SHAPES = {
    "forward": [
        (128, 64, 4, None),
        (128, 64, 8, None),
        (128, 64, 8, 128),
        (128, 128, 8, None),
        (64, 64, 4, 168),
        (64, 128, 4, None),
        (128, 32, 4, None),
    ],
    "query gradients": [
        (64, 64, 4, None),
        (64, 64, 4, 168),
        (64, 128, 4, None),
        (128, 64, 8, None),
        (128, 64, 8, 128),
        (128, 128, 8, None),
    ],
    "key gradients": [
        (64, 64, 4, None),
        (64, 64, 4, 168),
        (32, 64, 4, 168),
        (64, 128, 8, None),
        (32, 128, 8, None),
    ],
}
STAGES = (2, 3)


def calls() -> dict[str, tuple[dict[int, Tiles], Callable[[], list[Tensor]]]]:
    """By kernel: the table it looks its tiles up in, and a call that returns its results."""
    q, upstream = (random(WINDOWS, TIME, QUERY_HEADS, HEAD_DIM) for _ in range(2))
    k, v = (random(WINDOWS, TIME, KEY_HEADS, HEAD_DIM) for _ in range(2))
    gain = torch.full((QUERY_HEADS,), 1.5, device="cuda")
    rope = reference.rope_table(TIME, ROPE_DIMS, 10_000.0, q.device)
    key, key_rstd = turned_keys(k, rope, EPS)

    def forward():
        return attend(q, key, v, gain, rope, None, None, eps=EPS, xsa=False)

    def queries():
        return query_gradients(upstream, attended, key, v, gain, rope, None, None)

    def keys() -> list[Tensor]:
        given = (upstream, inner, delta, attended, key, key_rstd, v, rope, None)
        return list(key_gradients(*given))

    attended = forward()
    *_, inner, delta = queries()
    return {
        "forward": (FORWARD_TILES, lambda: [forward().y]),
        "query gradients": (QUERY_TILES, lambda: list(queries()[:2])),
        "key gradients": (KEY_TILES, keys),
    }


def time_tiles(
    table: dict[int, Tiles], tiles: Tiles, call: Callable[[], list[Tensor]], expected: list[Tensor]
) -> float:
    """Milliseconds with ``tiles``; infinity where they do not fit or give other results."""
    stored = table[HEAD_DIM]
    table[HEAD_DIM] = tiles
    try:
        for one, other in zip(call(), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
        median = triton.testing.do_bench(call, warmup=20, rep=60, return_mode="median")
        assert isinstance(median, float)
        return median
    except (triton.OutOfResources, AssertionError) as error:
        print(f"  {tiles}: {str(error).splitlines()[0]}")
        return float("inf")
    finally:
        table[HEAD_DIM] = stored


def main() -> None:
    for name, (table, call) in calls().items():
        print(name)
        expected = call()
        tried = [
            Tiles(rows, keys, warps, stages, registers)
            for (rows, keys, warps, registers), stages in itertools.product(SHAPES[name], STAGES)
        ]
        times = {tiles: time_tiles(table, tiles, call, expected) for tiles in tried}
        for tiles, milliseconds in sorted(times.items(), key=lambda item: item[1]):
            print(f"  {milliseconds:7.3f} ms  {tiles}", flush=True)


if __name__ == "__main__":
    main()
