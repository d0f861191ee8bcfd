"""The embedding kernels against the reference, in all optional forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common import streams
from kernels.common.launch import Launch
from kernels.embed.autograd import SORT_LANE, embed
from kernels.embed.backward import LAUNCH
from kernels.embed.lookup_keys import lookup_keys
from kernels.embed.reference import embed as reference
from kernels.embed.segment_sum import LAUNCH as SUMS
from kernels.embed.window import LAUNCH as WINDOW
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import random_tensors, relative_error
from tests.kernels.tools.simulated_streams import MAIN, simulated
from tests.kernels.tools.twins import DEVICE, FP32_SUMS, cast, check_twins, results

BOS, VOCABULARY, BIGRAM_ROWS = 1, 10, 17
FP32 = ("table", "smear_gate", "smear_scale", "bigram_table", "bigram_scale")
REAL_TABLES: dict[str, tuple[int, ...]] = {"table": (1024, 512), "smear_gate": (512,)}
REAL_BIGRAMS: dict[str, tuple[int, ...]] = {
    "bigram_table": (2048, 128),
    "projection": (512, 128),
    "bigram_scale": (),
}
SHAPES = {
    "one position": (1, 1),
    "windows of one position": (3, 1),
    "windows of two": (2, 2),
    "windows that no tile ends with": (3, 37),
}


def tokens_of(shape: tuple[int, int], high: int = VOCABULARY, seed: int = 1) -> Tensor:
    """Half of them BOS or the token after it, so that heavy keys and runs of BOS are there."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, high, shape, generator=generator, dtype=torch.int32)
    common = torch.rand(shape, generator=generator) < 0.5
    return torch.where(common, BOS + tokens % 2, tokens).to(DEVICE)


def inputs_of(*, bigram: bool, width: int, seed: int = 1, window: int = 0) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"table": (VOCABULARY, width)}
    shapes["smear_gate"] = (window or width,)
    if window:
        shapes["smear_scale"] = ()
    if bigram:
        shapes |= {
            "bigram_table": (BIGRAM_ROWS, 5),
            "projection": (width, 5),
            "bigram_scale": (),
        }
    return random_tensors(seed, **shapes)


def edges_of(count: int, vocabulary: int, seed: int = 1) -> Tensor:
    """Sorted pairs (2, count), half of them of the tokens that ``tokens_of`` makes frequent."""
    frequent = [(BOS, BOS), (BOS, BOS + 1), (BOS + 1, BOS), (BOS + 1, BOS + 1)]
    keys = [token * vocabulary + before for token, before in frequent[: (count + 1) // 2]]
    generator = torch.Generator().manual_seed(seed)
    others = torch.randperm(vocabulary**2, generator=generator).tolist()
    found = torch.tensor(sorted([*dict.fromkeys(keys + others[: 2 * count])][:count]))
    return torch.stack((found // vocabulary, found % vocabulary)).to(DEVICE, torch.int32)


def of(
    operation: Any,
    tokens: Tensor,
    bos_id: int | None,
    *,
    bf16: bool = False,
    edges: Tensor | None = None,
) -> Any:
    """``operation`` as a function of its differentiable inputs, in the table's or a lower dtype."""

    def call(
        table: Tensor, smear_gate: Tensor, smear_scale: Tensor | None = None, **bigram: Tensor
    ) -> tuple[Tensor]:
        parts = tuple(bigram[n] for n in ("bigram_table", "projection", "bigram_scale") if bigram)
        lower = bf16 and table.dtype == torch.float32
        return (
            operation(
                tokens,
                table,
                smear_gate,
                dtype=torch.bfloat16 if lower else table.dtype,
                eps=1e-6,
                bos_id=bos_id,
                bigram=parts or None,
                smear_scale=smear_scale,
                edges=edges,
            ),
        )

    return call


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that each runs several turns of its loop, and pieces that keys must be cut into."""
    monkeypatch.setattr("kernels.embed.backward.LAUNCH", replace(LAUNCH, programs=3))
    for direction, launch in WINDOW.items():
        monkeypatch.setitem(WINDOW, direction, replace(launch, programs=3))
    monkeypatch.setitem(SUMS, "pieces", Launch(rows=8, depth=4))


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("bos_id", [BOS, None], ids=["masked", "leaking"])
@pytest.mark.parametrize("bigram", [True, False], ids=["bigram", "no bigram"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_output_and_gradients(shape: tuple[int, int], bigram: bool, bos_id: int | None) -> None:
    tokens = tokens_of(shape)
    check_twins(
        of(embed, tokens, bos_id),
        of(reference, tokens, bos_id),
        inputs_of(bigram=bigram, width=48, seed=shape[1]),
    )


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    ("shape", "bigram", "window", "bos_id"),
    [
        ((1, 1), False, 12, BOS),
        ((2, 2), True, 3, None),
        ((2, 11), False, 12, BOS),
        ((2, 7), True, 48, BOS),
    ],
    ids=["one position", "leaking windows of two", "tiles", "bigram, all channels"],
)
def test_smear_gate_of_a_window(
    shape: tuple[int, int], bigram: bool, window: int, bos_id: int | None
) -> None:
    tokens = tokens_of(shape)
    given = inputs_of(bigram=bigram, width=48, seed=shape[1], window=window)
    given["smear_gate"] /= window**0.5
    check_twins(of(embed, tokens, bos_id), of(reference, tokens, bos_id), given)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    ("shape", "edges", "window"),
    [
        ((1, 1), 15, 0),
        ((2, 11), 1, 0),
        ((2, 11), 12, 5),
        ((3, 37), 8, 0),
        ((3, 37), 15, 0),
        ((3, 7), 15, 48),
    ],
    ids=lambda given: str(given),
)
def test_edges_own_rows(shape: tuple[int, int], edges: int, window: int) -> None:
    """All but the last two rows, a power of two, one fewer, and some that leave hashed rows."""
    tokens, pairs = tokens_of(shape), edges_of(edges, VOCABULARY)
    given = inputs_of(bigram=True, width=48, seed=shape[1], window=window)
    given["smear_gate"] /= max(1, window) ** 0.5
    check_twins(of(embed, tokens, BOS, edges=pairs), of(reference, tokens, BOS, edges=pairs), given)


@pytest.mark.parametrize(
    ("count", "vocabulary"), [(1, 50), (2, 50), (3, 65_535), (7, 50), (8, 50), (255, 65_535)]
)
def test_each_pair_is_found_and_no_other(count: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(count)
    pairs = torch.randint(0, vocabulary, (2 * count, 2), generator=generator).unique(dim=0)
    pairs = torch.cat((pairs[:count], pairs[-1:]))[-count:]
    few = pairs[:: 1 + count // 20]
    near = torch.cat((few, few + 1, few - 1, few.flip(1), pairs[-1:])).clamp(0, vocabulary - 1)
    edges = pairs.T.contiguous().to(DEVICE, torch.int32)
    for rows, dtype in ((count + 2, torch.int32), (count + 9, torch.int64)):
        tokens = near.flip(1).flatten()[None].to(DEVICE, dtype)
        keys = lookup_keys(tokens, vocabulary, rows, edges)[tokens.numel() :].long()
        expected = oracle.bigram_rows(tokens.cpu(), rows, edges.cpu())
        assert torch.equal(keys.cpu() - vocabulary, expected[0]), rows


def test_a_window_does_not_begin_with_an_edge() -> None:
    """Not even where its first token follows token 0 in some pair."""
    tokens = torch.tensor([[5, 0, 5], [5, 5, 0]], dtype=torch.int32, device=DEVICE)
    edges = torch.tensor([[5], [0]], dtype=torch.int32, device=DEVICE)
    keys = lookup_keys(tokens, 10, 3, edges)[tokens.numel() :] - 10
    assert keys.view(2, 3).tolist() == [[2, 1, 0], [2, 1, 1]]


def test_width_of_two_chunks_and_a_masked_rest() -> None:
    tokens = tokens_of((2, 9))
    given = inputs_of(bigram=True, width=320)
    check_twins(of(embed, tokens, BOS), of(reference, tokens, BOS), given)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_hash_wraps_in_int32_whatever_the_ids_type(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    # 36313 times such an id passes 2^31, 27191 times does not: the hash is negative before its mod.
    tokens = torch.randint(59_200, 65_000, (2, 9), generator=generator).to(DEVICE, dtype)
    shapes = {"table": (65_000, 4), "smear_gate": (4,)}
    shapes |= {"bigram_table": (17, 3), "projection": (4, 3), "bigram_scale": ()}
    given = cast(random_tensors(2, **shapes), torch.float32)
    (x,), (expected,) = (of(operation, tokens, BOS)(**given) for operation in (embed, reference))
    assert relative_error(x, expected) < FP32_SUMS


def test_same_inputs_same_bits() -> None:
    given = cast(inputs_of(bigram=True, width=48), torch.float32)
    call = of(embed, tokens_of((3, 37)), BOS)
    first, second = (results(call, given, 1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(DEVICE == "cuda", reason="simulates streams in the interpreter")
def test_sorting_beside_the_backward_pass_is_over_before_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = cast(inputs_of(bigram=True, width=48), torch.float32)
    call = of(embed, tokens_of((3, 37)), BOS)
    with simulated(monkeypatch, embed_backward="text.ids") as launches:
        results(call, given, 1)
    assert launches.races == []
    assert launches.names() == {MAIN, f"lane {SORT_LANE}"}


def test_without_gradients_nothing_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("kernels.embed.segment_sum.Lookups.sort")
    given = cast(inputs_of(bigram=True, width=48), torch.float32)
    with torch.no_grad():
        of(embed, tokens_of((3, 37)), BOS)(**given)


def forward_and_backward(
    tokens: Tensor, given: dict[str, Tensor], dx: Tensor, edges: Tensor | None
) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    (x,) = of(embed, tokens, BOS, bf16=True, edges=edges)(**leaves)
    return [x.detach(), *torch.autograd.grad(x, list(leaves.values()), dx)]


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 2046])
def test_replays_have_the_bits_of_one_stream_with_other_tokens_each_time(count: int) -> None:
    edges = edges_of(count, 1024) if count else None
    given = cast(random_tensors(3, **REAL_TABLES, **REAL_BIGRAMS), torch.bfloat16, FP32)
    dx = torch.randn(48, 2048, 512, device=DEVICE, dtype=torch.bfloat16)
    batches = [tokens_of((48, 2048), 1024, seed) for seed in (1, 2)]
    with streams.serial():
        expected = [forward_and_backward(tokens, given, dx, edges) for tokens in batches]
    tokens, side, graph = batches[0].clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward_and_backward(tokens, given, dx, edges)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        got = forward_and_backward(tokens, given, dx, edges)
    for repeat in range(20):
        tokens.copy_(batches[repeat % 2])
        graph.replay()
        assert all(map(torch.equal, got, expected[repeat % 2])), repeat


@pytest.mark.gpu
@pytest.mark.parametrize("bos_id", [BOS, None], ids=["masked", "leaking"])
@pytest.mark.parametrize("bigram", [True, False], ids=["bigram", "no bigram"])
def test_smear_gate_of_a_window_in_bf16(bigram: bool, bos_id: int | None) -> None:
    tokens = tokens_of((1, 98_304), 8192)
    given = random_tensors(3, table=(8192, 512), smear_gate=(12,), smear_scale=())
    given["smear_gate"] /= 12**0.5
    if bigram:
        given |= random_tensors(4, **REAL_BIGRAMS)
    check_twins(
        of(embed, tokens, bos_id, bf16=True),
        of(reference, tokens, bos_id, bf16=True),
        given,
        dtype=torch.bfloat16,
        fp32=FP32,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("window", [0, 12])
@pytest.mark.parametrize(("vocabulary", "edges"), [(1024, 2046), (8192, 1536), (40_000, 2046)])
def test_edges_in_bf16_at_the_real_size(vocabulary: int, edges: int, window: int) -> None:
    tokens, pairs = tokens_of((48, 2048), vocabulary), edges_of(edges, min(vocabulary, 2000))
    tables: dict[str, tuple[int, ...]] = {
        "table": (vocabulary, 512),
        "smear_gate": (window or 512,),
    }
    given = random_tensors(3, **tables, **({"smear_scale": ()} if window else {}))
    given["smear_gate"] /= (window or 1) ** 0.5
    check_twins(
        of(embed, tokens, BOS, bf16=True, edges=pairs),
        of(reference, tokens, BOS, bf16=True, edges=pairs),
        given | random_tensors(4, **REAL_BIGRAMS),
        dtype=torch.bfloat16,
        fp32=FP32,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("bos_id", [BOS, None], ids=["masked", "leaking"])
@pytest.mark.parametrize("bigram", [True, False], ids=["bigram", "no bigram"])
def test_bf16_at_the_real_size_is_as_exact_as_pytorchs(bigram: bool, bos_id: int | None) -> None:
    tokens = tokens_of((48, 2048), 1024)
    given = random_tensors(3, **REAL_TABLES)
    if bigram:
        given |= random_tensors(4, **REAL_BIGRAMS)
    check_twins(
        of(embed, tokens, bos_id, bf16=True),
        of(reference, tokens, bos_id, bf16=True),
        given,
        dtype=torch.bfloat16,
        fp32=FP32,
    )
