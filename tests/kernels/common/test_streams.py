"""Operations on several streams: nothing is read before it is written or written over too soon.

On a CPU by a simulation of streams, which knows of every launch; on a GPU by their results, which
must be those of one stream, bit for bit.
"""

import weakref
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common import streams
from kernels.common.streams import Side
from kernels.linear import autograd as linear
from kernels.loss import autograd as loss
from kernels.loss import chunks as loss_chunks
from kernels.mlp import autograd as mlp
from tests.kernels.tools.simulated_streams import MAIN, Stream, simulated

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_CPU = pytest.mark.skipif(DEVICE == "cuda", reason="simulates streams in the interpreter")
VOCABULARY, HEADS, VISITS = 24, 3, 3
SMALL = (3, 70)
# The loss's kernel is interpreted a row at a time.
FEW, FEW_A_CHUNK = (3, 18), 16
REPEATS = 20

Tensors = dict[str, Tensor]
Call = Callable[[Tensors], Tensors]


def inputs(
    batch: tuple[int, ...], width: int, seed: int = 1, vocabulary: int = VOCABULARY
) -> Tensors:
    """Whatever ``CALLS`` take, fp32 on the device; weights keep their input's scale."""
    hidden, half = 3 * width, width // 2
    sizes = (width, half, half)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (*batch, width),
        "dy": (*batch, width),
        "dparts": (*batch, sum(sizes)),
        "up": (hidden, width),
        "down": (width, hidden),
        "weight": (width, width),
        "weights": (sum(sizes), width),
        "lookup": (*batch, half),
        "lookup_weight": (half, half),
        "head": (vocabulary, width),
        "mtp_heads": (HEADS - 1, vocabulary, width),
    }
    generator = torch.Generator(DEVICE).manual_seed(seed)
    given = {
        name: torch.randn(shape, generator=generator, device=DEVICE)
        for name, shape in shapes.items()
    }
    for name in ("up", "down", "weight", "weights", "head", "mtp_heads"):
        given[name] *= width**-0.5
    given["targets"] = torch.randint(
        0, vocabulary, batch, generator=generator, device=DEVICE, dtype=torch.int32
    )
    given["mtp_weight"] = torch.tensor(0.3, device=DEVICE)
    return given


def outputs(call: Callable[..., Any], given: Mapping[str, Tensor], dy: list[Tensor]) -> Tensors:
    """What the operation returns of leaves by name, and their gradients."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    results = call(**leaves)
    gradients = torch.autograd.grad(results[: len(dy)], list(leaves.values()), dy)
    named = {f"output {index}": result.detach() for index, result in enumerate(results)}
    return named | {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}


def run_mlp(given: Tensors) -> Tensors:
    return outputs(
        lambda x, up, down: [mlp.mlp(x, up, down, 0.75)],
        {name: given[name] for name in ("x", "up", "down")},
        [given["dy"]],
    )


def run_linear_add(given: Tensors) -> Tensors:
    return outputs(
        lambda x, weight: [linear.linear_add(given["dy"].clone(), x, weight)],
        {name: given[name] for name in ("x", "weight")},
        [given["dy"]],
    )


def run_projections(given: Tensors) -> Tensors:
    width = given["x"].size(-1)
    sizes = (width, width // 2, width // 2)
    return outputs(
        lambda x, weights, **lookup: linear.projections(x, weights, sizes, **lookup),
        {name: given[name] for name in ("x", "weights", "lookup", "lookup_weight")},
        list(given["dparts"].split(sizes, dim=-1)),
    )


def run_loss(given: Tensors) -> Tensors:
    return outputs(
        lambda x, **heads: loss.loss(x, targets=given["targets"], softcap=30.0, **heads),
        {name: given[name] for name in ("x", "head", "mtp_heads", "mtp_weight")},
        [given["mtp_weight"]],
    )


def run_visits(given: Tensors) -> Tensors:
    """The same weights three times: each one's gradients are added to each other."""

    def call(x: Tensor, weight: Tensor, up: Tensor, down: Tensor) -> list[Tensor]:
        for _ in range(VISITS):
            stream = linear.linear_add(x.clone(), x, weight)
            x = mlp.mlp(0.1 * stream, up, down, 0.75)
        return [x]

    named = {name: given[name] for name in ("x", "weight", "up", "down")}
    return outputs(call, named, [given["dy"]])


def score(given: Tensors) -> Tensors:
    names = ("head", "mtp_heads", "mtp_weight", "targets")
    with torch.no_grad():
        results = loss.loss(given["x"], softcap=30.0, **{name: given[name] for name in names})
    return dict(zip(("loss", "nats"), results, strict=True))


CALLS: dict[str, Call] = {
    "mlp": run_mlp,
    "linear_add": run_linear_add,
    "projections": run_projections,
    "loss": run_loss,
    "visits": run_visits,
    "score": score,
}
CASES = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def assert_same(got: Tensors, expected: Tensors) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


def small_chunks(monkeypatch: pytest.MonkeyPatch, rows: int = 64) -> None:
    """Of two blocks or one. 210 rows are four of 64, 64, 64 and 18; 54, by 16, one of 6, too."""
    monkeypatch.setattr(loss_chunks, "ROW_MULTIPLE", rows // 2)
    monkeypatch.setattr(loss_chunks, "CHUNK_LOGITS", rows * HEADS * VOCABULARY)
    monkeypatch.setattr(loss_chunks, "BLOCK_LOGITS", 1)


def chunked(monkeypatch: pytest.MonkeyPatch, call: Call) -> Tensors:
    """Inputs of a call; the loss's are fewer, and as many chunks."""
    few = call in (run_loss, score)
    small_chunks(monkeypatch, FEW_A_CHUNK if few else 64)
    return inputs(FEW if few else SMALL, 32)


@ON_CPU
@CASES
def test_what_one_stream_needs_of_another_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """And whoever reads the results on the current stream afterwards need not wait."""
    given = chunked(monkeypatch, call)
    expected = call(given)
    with simulated(monkeypatch) as launches:
        got = {name: tensor.clone() for name, tensor in call(given).items()}
    assert launches.races == []
    assert len(launches.names()) > 1
    assert_same(got, expected)


@ON_CPU
def test_gradients_of_one_weight_are_added_where_the_simulation_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with simulated(monkeypatch) as launches:
        run_visits(inputs(SMALL, 32))
    added = [access for access in launches.accesses if access.launch.startswith("aten::add")]
    shapes = [32 * 32 * 4, 96 * 32 * 4]  # bytes of weight, and of up and down
    assert {access.end - access.first for access in added} >= set(shapes)


@ON_CPU
@pytest.mark.parametrize("softmax", [None, 0])
@pytest.mark.parametrize("dheads", [None, 0, 1])
def test_the_losss_lanes(
    monkeypatch: pytest.MonkeyPatch, softmax: int | None, dheads: int | None
) -> None:
    """Any that a benchmark may choose."""
    given = chunked(monkeypatch, run_loss)
    monkeypatch.setattr(loss, "SOFTMAX_LANE", softmax)
    monkeypatch.setattr(loss_chunks, "DHEADS_LANE", dheads)
    with simulated(monkeypatch) as launches:
        run_loss(given)
    assert launches.races == []
    lanes = {lane for lane in (softmax, dheads) if lane is not None}
    assert launches.names() == {MAIN} | {f"lane {lane}" for lane in lanes}


@ON_CPU
@CASES
@pytest.mark.parametrize("missing", ["wait_stream", "wait_event"])
def test_the_simulation_finds_a_wait_left_out(
    monkeypatch: pytest.MonkeyPatch, call: Call, missing: str
) -> None:
    if missing == "wait_event" and call not in (run_loss, score):
        pytest.skip("waits for whole streams only")
    given = chunked(monkeypatch, call)

    def nothing(self: Stream, other: Any) -> None:
        pass

    monkeypatch.setattr(Stream, missing, nothing)
    with simulated(monkeypatch) as launches:
        for tensor in call(given).values():
            tensor.clone()
    assert launches.races


def test_operands_live_until_the_join() -> None:
    with Side(torch.device(DEVICE)) as side:
        left = torch.ones(2, 3, device=DEVICE)
        right, alive = torch.ones(3, 4, device=DEVICE), weakref.ref(left)
        product = side.product(left, right)
        del left
        assert alive() is not None
    assert alive() is None
    assert torch.equal(product, torch.full((2, 4), 3.0, device=DEVICE))


def test_a_cpu_and_serial_have_no_side_streams() -> None:
    assert Side(torch.device("cpu")).stream is None
    assert Side(torch.device("cuda", 0), None).stream is None
    with streams.serial():
        assert Side(torch.device("cuda", 0)).stream is None
        with streams.serial():
            pass
        assert Side(torch.device("cuda", 0)).stream is None


@pytest.mark.parametrize("rows", [1, 31, 32, 64, 65, 210, 256])
def test_blocks_are_all_rows_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """In their order, and a chunk's logits are not those of the one before."""
    small_chunks(monkeypatch)
    hidden = torch.arange(float(rows))[:, None]
    chunks = loss_chunks.Chunks.of(hidden, torch.ones(HEADS, VOCABULARY, 1), True)
    seen, places = [], []
    for index in range(len(chunks.bounds)):
        z = chunks.chunk_logits(index)
        places.append(z.data_ptr())
        assert len(z) == sum(len(block) for block, _, _ in chunks.blocks(index))
        for block, x, first in chunks.blocks(index):
            assert len(block) == len(x) <= 32
            assert float(x[0]) == first
            seen += x.flatten().int().tolist()
    assert seen == list(range(rows))
    assert all(one != other for one, other in pairwise(places))


def rounded(given: Tensors) -> Tensors:
    levers = ("mtp_weight", "targets")
    return {name: t if name in levers else t.bfloat16() for name, t in given.items()}


@pytest.mark.gpu
@CASES
@pytest.mark.parametrize("batch", [(48, 2048), (35, 999)], ids=["real size", "odd rows"])
def test_eager_calls_have_the_bits_of_one_stream(call: Call, batch: tuple[int, int]) -> None:
    """Inputs alternate: what is read too early is another's."""
    given = [rounded(inputs(batch, 512, seed, 1024)) for seed in (1, 2)]
    with streams.serial():
        expected = [call(each) for each in given]
    for repeat in range(REPEATS):
        assert_same(call(given[repeat % 2]), expected[repeat % 2])


@pytest.mark.gpu
@CASES
@pytest.mark.parametrize("batch", [(48, 2048), (35, 999)], ids=["real size", "odd rows"])
def test_a_captured_graph_has_the_bits_of_one_stream(call: Call, batch: tuple[int, int]) -> None:
    """Inputs alternate and outputs are poisoned: what a replay reads too early is another's, and
    what it leaves out is NaN."""
    given = [rounded(inputs(batch, 512, seed, 1024)) for seed in (1, 2)]
    with streams.serial():
        expected = [call(each) for each in given]
    static = {name: tensor.clone() for name, tensor in given[0].items()}
    warm_up, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        call(static)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        got = call(static)
    for repeat in range(REPEATS):
        for tensor in got.values():
            tensor.fill_(torch.nan)
        for name, tensor in given[repeat % 2].items():
            static[name].copy_(tensor)
        graph.replay()
        assert_same(got, expected[repeat % 2])
