"""embed: bigram hash, token + bigram embedding, RMSNorm, SmearGate and its BOS mask."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.embed.reference import bigram_hash, bigram_rows
from tests.kernels.tools import oracle
from tests.kernels.tools.compare import FP64, check, random_tensors, relative_error

ops = operations("reference")
BOS = 1
# BOS at position 0, in the middle, twice in a row and last; none at all in the second row.
TOKENS = torch.tensor(
    [[1, 7, 3, 3, 1, 9, 1, 1, 4, 8, 2, 6, 1], [5, 2, 2, 0, 9, 8, 7, 3, 4, 6, 0, 5, 2]],
    dtype=torch.int32,
)


def bigram_of(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
    return (inputs["rows"], inputs["projection"], inputs["scale"]) if "rows" in inputs else None


def embed(tokens: Tensor, *, bos_id: int | None = BOS, **inputs: Tensor) -> Tensor:
    return ops.embed(
        tokens,
        inputs["table"],
        inputs["smear_gate"],
        dtype=torch.float64,
        eps=1e-6,
        bos_id=bos_id,
        bigram=bigram_of(inputs),
        smear_scale=inputs.get("smear_scale"),
    )


def inputs_of_embed(*, with_bigram: bool, window: int = 0) -> dict[str, Any]:
    inputs: dict[str, Any] = random_tensors(1, table=(10, 6), smear_gate=(window or 6,))
    if window:
        inputs |= random_tensors(3, smear_scale=())
    if with_bigram:
        inputs |= random_tensors(2, rows=(17, 3), projection=(6, 3), scale=())
    return inputs


@pytest.mark.parametrize("bos_id", [BOS, None], ids=["masked", "leaking"])
@pytest.mark.parametrize("with_bigram", [True, False], ids=["bigram", "no bigram"])
@pytest.mark.parametrize(("length", "window"), [(13, 0), (2, 0), (1, 0), (13, 4), (2, 6)])
def test_embed_and_its_gradients(
    length: int, window: int, with_bigram: bool, bos_id: int | None
) -> None:
    tokens = TOKENS[:, :length]

    def plain(table: Tensor, smear_gate: Tensor, **rest: Tensor) -> tuple[Tensor]:
        bigram, scale = bigram_of(rest), rest.get("smear_scale")
        options: dict[str, Any] = {"bos_id": bos_id, "eps": 1e-6, "smear_scale": scale}
        return (oracle.embedded(tokens, table, smear_gate, bigram, **options),)

    check(
        lambda **inputs: (embed(tokens, bos_id=bos_id, **inputs),),
        plain,
        inputs_of_embed(with_bigram=with_bigram, window=window),
    )


def test_embed_casts_to_the_compute_dtype_and_keeps_fp32_gradients_of_tables() -> None:
    inputs = {
        name: tensor.float().requires_grad_()
        for name, tensor in inputs_of_embed(with_bigram=True).items()
    }
    x = ops.embed(
        TOKENS,
        inputs["table"],
        inputs["smear_gate"],
        dtype=torch.bfloat16,
        eps=1e-6,
        bos_id=BOS,
        bigram=(inputs["rows"], inputs["projection"].bfloat16(), inputs["scale"]),
    )
    x.float().square().sum().backward()
    assert x.dtype == torch.bfloat16
    gradients = [tensor.grad for tensor in inputs.values()]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in gradients)


@pytest.mark.parametrize("rows", [2, 3, 2048, 10_240])
@pytest.mark.parametrize(
    "high", [1024, 65_535], ids=["vocab 1024", "ids whose products wrap int32"]
)
def test_bigram_hash(rows: int, high: int) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(high // 2, high, (2, 33), generator=generator, dtype=torch.int32)
    hashed = bigram_hash(tokens, rows)
    assert torch.equal(hashed.long(), oracle.bigram_rows(tokens, rows))


def test_bigram_hash_by_hand_where_int32_wraps_to_a_negative_number() -> None:
    # 36313 * 65000 = 2360345000 -> -1934622296; 27191 * 65000 = 1767415000;
    # their XOR is -437740176 = -213845 * 2047 + 539.
    tokens = torch.tensor([[65_000, 65_000]], dtype=torch.int32)
    assert bigram_hash(tokens, 2048).tolist() == [[2047, 539]]


@pytest.mark.parametrize("count", [1, 9, 15])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_of_edges(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randint(0, 5, (3, 40), generator=generator).to(dtype)
    edges = torch.randperm(25, generator=generator)[:count].sort().values
    edges = torch.stack((edges // 5, edges % 5)).int()
    found = bigram_rows(tokens, 17, edges, 5)
    assert torch.equal(found.long(), oracle.bigram_rows(tokens, 17, edges))
    assert found.dtype == torch.int32


def test_an_edge_has_its_row_and_all_else_the_one_after_the_edges() -> None:
    """The pair (5, 3) is token 5 after 3: at position 2, not at 0, nor as 3 after 5."""
    tokens = torch.tensor([[5, 3, 5, 3]])
    edges = torch.tensor([[0, 5], [5, 3]], dtype=torch.int32)
    assert bigram_rows(tokens, 4, edges, 10).tolist() == [[3, 2, 1, 2]]


def test_bigram_hash_uses_the_last_row_at_position_0_alone() -> None:
    tokens = torch.arange(1000, dtype=torch.int32).view(2, 500)
    hashed = bigram_hash(tokens, 32)
    assert hashed[:, 0].tolist() == [31, 31]
    assert int(hashed[:, 1:].max()) == 30


def test_smear_gate_passes_the_previous_token_through_its_sigmoid() -> None:
    table = torch.eye(4, dtype=torch.float64)
    gate = torch.tensor([0.25, 0.25, 0.25, 0.75], dtype=torch.float64).logit()
    x = embed(torch.tensor([[2, 3, 0]]), bos_id=1, table=table, smear_gate=gate)
    one_hot = 2.0  # RMSNorm of a one-hot row of width 4
    expected = torch.tensor(
        [[0, 0, 0.75, 0], [0, 0, 0.25, 0.25], [0.75, 0, 0, 0.75]], dtype=torch.float64
    )
    assert relative_error(x[0], one_hot * expected) < 1e-5  # eps of the norm: 1e-6 of 1/4


def test_bos_mask_lets_nothing_but_the_bigram_into_a_document() -> None:
    """Another previous document changes its BOS position through the bigram hash alone."""
    tokens = torch.tensor([[1, 5, 6, 1, 7, 8]], dtype=torch.int32)
    other = torch.tensor([[1, 5, 9, 1, 7, 8]], dtype=torch.int32)
    first = slice(3, None)
    without, with_bigram = (inputs_of_embed(with_bigram=on) for on in (False, True))

    assert torch.equal(embed(tokens, **without)[:, first], embed(other, **without)[:, first])
    masked = embed(tokens, **with_bigram) - embed(other, **with_bigram)
    leaking = embed(tokens, bos_id=None, **without) - embed(other, bos_id=None, **without)
    # The hash at BOS reads the previous token; the position after BOS then smears that BOS.
    changed = [bool(row.abs().max() > 0) for row in masked[0, first]]
    assert changed == [True, True, False]
    assert [bool(row.abs().max() > 0) for row in leaking[0, first]] == [True, False, False]


def test_bos_mask_treats_a_document_start_like_position_0() -> None:
    inputs = inputs_of_embed(with_bigram=False)
    packed = embed(torch.tensor([[5, 6, 1, 7, 8]]), **inputs)
    alone = embed(torch.tensor([[1, 7, 8]]), **inputs)
    assert relative_error(packed[:, 2:], alone) < FP64
