"""Queries, keys and values of one input in bf16 on Hopper, by ``stationary``.

    q, k, v = x @ weight.T;   query, key = rotate(rmsnorm(q)) * scale, rotate(rmsnorm(k))

What ``kernels.attention.rope.turned`` makes of a product, made of its sums before they are ever
rounded: a bf16 q and k would be 151 MB to write and to read again at the real size.

A strip of 128 columns is two heads. Of each, a thread (one of four for a row) holds dims 8 t to
8 t + 7 of either half: the sum of a head's squares takes two shuffles, the other of each rotary
pair one, and four threads store 64 bytes of a row at once.
"""

# Pyright takes a launch for a call of the kernel, and a kernel's code for Python.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels.attention.rope import room_for
from kernels.attention.schedule_hopper import query_scale
from kernels.common import stationary
from kernels.common.stationary import (
    DEPTH,
    HALF,
    KEPT_BY_DEPTH,
    REGISTERS,
    ROWS,
    STAGES,
    STRIP,
    grid,
    keep_strip,
    open_ring,
    product,
    share,
    stream_rows,
    streamed,
)

HEAD_DIM = gl.constexpr(64)
TURNED = (8, 16)  # rotary pairs: both of one are in the first half of a head's dims, 8 a thread
# That half of a half tile, or the other: (row, head, thread of a row, dim of its 8).
DIMS = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 4], [8, 0, 0, 0], [0, 1, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        [[16, 0, 0, 0], [32, 0, 0, 0]],
        [],
        [64, 2, 4, 8],
    )
)
OF_ROWS = gl.constexpr(gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, DIMS.value))))
OF_HEADS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, DIMS.value))))
OF_THREADS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, DIMS.value))))
OF_EIGHTS = gl.constexpr(gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, DIMS.value))))


def fits(x: Tensor, heads: int, kv_heads: int, head_dim: int, pairs: int) -> bool:
    """Whether ``project_kernel`` makes these heads of x (N, C): no strip has a query and a key, or
    a key and a value."""
    even = heads % 2 == 0 and kv_heads % 2 == 0
    hidden = (heads + 2 * kv_heads) * head_dim
    known = head_dim == HEAD_DIM.value and pairs in TURNED
    return even and known and stationary.fits(x, hidden)


def project(
    x: Tensor, weight: Tensor, gain: Tensor, rope: Tensor, heads: int, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """query, its 1/rms, key and its as ``kernels.attention.rope.turned`` has them, v (B, T, G, D).

    x is (B, T, C), weight ((H + 2 G) D, C) in the order q, k, v, both bf16; the rest as ``turned``
    has it.
    """
    (B, T, C), G, D = x.shape, kv_heads, HEAD_DIM.value
    query, rstd = room_for(x, (B, T, heads, D), G)
    key, key_rstd = room_for(x, (B, T, G, D), G)
    v = x.new_empty(B, T, G, D)
    project_kernel[grid(B * T, weight.size(0), x.device)](
        streamed(x.view(-1, C)),
        weight.contiguous(),
        gain,
        rope,
        query,
        key,
        v,
        rstd,
        key_rstd,
        B * T,
        T,
        rope.stride(0),
        rstd.size(2),
        key_rstd.size(2),
        eps,
        H=heads,
        G=G,
        PAIRS=rope.size(-1),
        WIDTH=C,
        STAGES=STAGES,
    )
    return query, rstd, key, key_rstd, v


@gluon.jit(do_not_specialize=["rows", "length", "rstd_stride", "key_rstd_stride"])
def project_kernel(
    x_NC,
    weight,
    gain,
    rope,
    query,
    key,
    v,
    rstd,
    key_rstd,
    rows,
    length,
    rope_stride,
    rstd_stride,
    key_rstd_stride,
    eps,
    H: gl.constexpr,
    G: gl.constexpr,
    PAIRS: gl.constexpr,
    WIDTH: gl.constexpr,
    STAGES: gl.constexpr,
):
    """query = rotate(q * rstd) * scale, rstd = 1 / sqrt(mean(q^2) + eps), q = x @ weight[:H D].T;
    key the same of the next G heads without the scale; v the last G heads of the product.

    x (N, C): TMA descriptor; weight ((H + 2 G) 64, C), query (B, G, T * H / G, 64), key
    (B, G, T, 64), v (B, T, G, 64): bf16; gain (H,), rope (2, T, PAIRS), rstd, key_rstd (B, G,
    padded rows): fp32; N = B T.

    At N 98304, C 512, H 8, G 4: 103 GFLOP; reads x 101 MB (8 times from L2) and weight 1 MB, writes
    query 101, key 50, v 50 and 5 MB: 307 MB, 72 us on an H200, under 130 us of products at 794
    TFLOP/s. 8 strips are 16 blocks each, on 128 of 132 multiprocessors.
    """
    ring = open_ring(x_NC, STAGES)
    kept = gl.allocate_shared_memory(gl.bfloat16, [WIDTH // DEPTH, DEPTH, STRIP], KEPT_BY_DEPTH)
    given = (weight, gain, rope, rope_stride, eps)
    results = (query, key, v, rstd, key_rstd, rstd_stride, key_rstd_stride, rows, length)
    gl.warp_specialize(
        [
            (turn_tiles, (0, ring, kept, given, results, H, G, PAIRS)),
            (turn_tiles, (1, ring, kept, given, results, H, G, PAIRS)),
            (stream_rows, (x_NC, ring, rows, (H + 2 * G) * HEAD_DIM, WIDTH)),
        ],
        worker_num_warps=[4, 1],
        worker_num_regs=REGISTERS,
    )


@gluon.jit
def turn_tiles(
    CONSUMER: gl.constexpr,
    ring,
    kept,
    given,
    results,
    H: gl.constexpr,
    G: gl.constexpr,
    PAIRS: gl.constexpr,
):
    """All of a consumer's work. Angles are under way before they are needed."""
    HIDDEN: gl.constexpr = (H + 2 * G) * HEAD_DIM
    weight, gain, rope, rope_stride, eps = given
    rows, length = results[7], results[8]
    keep_strip(weight, kept, ring, CONSUMER, 1, kept.shape[0] * DEPTH, HIDDEN)
    strip, first, every = share(HIDDEN)
    turned = strip * 2 < H + G
    table, own = (rope, rope_stride, turned, length), (turned, rows, length, eps)
    factors, places = scales(strip, gain, H), destination(strip, results, H, G)
    order = CONSUMER
    for tile in range(first + CONSUMER * every, gl.cdiv(rows, ROWS), 2 * every):
        row = tile * ROWS
        upper_angles = angles(row, table, PAIRS)
        upper, lower = product(ring, kept, order, CONSUMER)
        lower_angles = angles(row + HALF, table, PAIRS)
        turn(upper, row, upper_angles, factors, places, own, PAIRS)
        turn(lower, row + HALF, lower_angles, factors, places, own, PAIRS)
        order += 2


@gluon.jit
def scales(strip, gain, H: gl.constexpr):
    """(2,): what the strip's heads are multiplied by, queries by ``query_scale``."""
    head = strip * 2 + gl.arange(0, 2, OF_HEADS)
    scale = query_scale(gl.load(gain + head, mask=head < H, other=0.0), HEAD_DIM)
    return gl.where(head < H, scale, 1.0)


@gluon.jit
def destination(strip, results, H: gl.constexpr, G: gl.constexpr):
    """Where the strip's heads go, in rows of a head: the tensor, how far on the next window and the
    next position are, and where each head begins (2,); then the same of 1/rms."""
    query, key, v, rstd, key_rstd, rstd_stride, key_rstd_stride, _, length = results
    GROUP: gl.constexpr = H // G
    first, head = strip * 2, strip * 2 + gl.arange(0, 2, OF_HEADS)
    queries, values = first < H, first >= H + G
    out = gl.where(queries, query, gl.where(values, v, key))
    statistics = gl.where(queries, rstd, key_rstd)
    stride = gl.where(queries, rstd_stride, key_rstd_stride)
    group = gl.where(queries, head // GROUP, (head - H) % G)
    member = gl.where(queries, head % GROUP, 0)
    beside = gl.where(queries, GROUP, gl.where(values, G, 1))
    of_window = gl.where(queries, GROUP, 1) * (G * length)
    begins = gl.where(values, group, group * (beside * length) + member)
    return (
        (out, of_window, beside, begins),
        (statistics, G * stride, beside, group * stride + member),
    )


@gluon.jit
def angles(first_row, table, PAIRS: gl.constexpr):
    """cos and sin (64, 1, 4, 8) for the first half of the dims of 64 rows: of what each dim takes
    of itself, and of what it takes of the other of its pair; 1 and 0 where nothing turns."""
    rope, rope_stride, turned, length = table
    THREADS: gl.constexpr = PAIRS // 8
    position = (first_row + gl.arange(0, HALF, OF_ROWS)) % length
    thread = gl.arange(0, 4, OF_THREADS)[None, None, :, None]
    pair = thread % THREADS * 8 + gl.arange(0, 8, OF_EIGHTS)[None, None, None, :]
    places = rope + ((position * PAIRS)[:, None, None, None] + pair)
    turns = turned & (thread < 2 * THREADS)
    cos = gl.load(places, mask=turns, other=1.0)
    sin = gl.load(places + rope_stride, mask=turns, other=0.0)
    return cos, gl.where(thread < THREADS, sin, -sin)


@gluon.jit
def turn(sums, first_row, cos_and_sin, scale, places, own, PAIRS: gl.constexpr):
    """Norm, turn, scale and store half a tile, and its rows' 1/rms; values pass through."""
    turned, rows, length, eps = own
    halves = sums.reshape((HALF, 2, 2, 4, 8)).permute((0, 1, 3, 4, 2))
    left, right = gl.split(halves)
    left, right = gl.convert_layout(left, DIMS), gl.convert_layout(right, DIMS)
    squares = gl.sum(gl.sum(left * left + right * right, axis=3), axis=2)
    rstd = gl.where(turned, gl.rsqrt(squares / HEAD_DIM + eps), 1.0)
    cos, sin = cos_and_sin
    left = left * cos + neighbours(left, PAIRS // 8) * sin
    row = first_row + gl.arange(0, HALF, OF_ROWS)
    inside = row < rows
    out, place = located(places[0], row, length)
    out += (place.to(gl.int64) * HEAD_DIM)[:, :, None, None]
    out += gl.arange(0, 4, OF_THREADS)[None, None, :, None] * 8
    out += gl.arange(0, 8, OF_EIGHTS)[None, None, None, :]
    gl.store(out, scaled(left, rstd, scale), mask=inside[:, None, None, None])
    gl.store(out + HEAD_DIM // 2, scaled(right, rstd, scale), mask=inside[:, None, None, None])
    statistics, place = located(places[1], row, length)
    gl.store(statistics + place, rstd, mask=inside[:, None] & turned)


@gluon.jit
def located(places, row, length):
    """The tensor, and where in it the rows of both heads are (64, 2)."""
    tensor, of_window, beside, begins = places
    within = row // length * of_window + row % length * beside
    return tensor, within[:, None] + begins[None, :]


@gluon.jit
def scaled(x, rstd, scale):
    """x * rstd * scale in bf16, rounded before it is scaled: see ``rope.unscaled``."""
    x *= rstd[:, :, None, None]
    # Two at once: Triton rounds one at a time, on a unit of a quarter of the speed.
    rounded = gl.inline_asm_elementwise(
        """{ .reg .b32 pair;
        cvt.rn.bf16x2.f32 pair, $3, $2;
        shl.b32 $0, pair, 16;
        and.b32 $1, pair, 0xffff0000; }""",
        "=r,=r,f,f",
        [x],
        dtype=gl.float32,
        is_pure=True,
        pack=2,
    )
    return (rounded * scale[None, :, None, None]).to(gl.bfloat16)


@gluon.jit
def neighbours(x, THREADS: gl.constexpr):
    """What the thread of a row that is THREADS before or after has where this one has x."""
    return gl.inline_asm_elementwise(
        exchange(THREADS), "=f,f", [x], dtype=gl.float32, is_pure=False, pack=1
    )


@gluon.constexpr_function
def exchange(threads):
    return f"shfl.sync.bfly.b32 $0, $1, {threads}, 31, -1;"
