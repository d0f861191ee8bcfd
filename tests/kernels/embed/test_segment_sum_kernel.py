"""Sums of rows by key: skewed keys, absent keys, cuts at every place, order fixed."""

import pytest
import torch
from torch import Tensor

from kernels.common.launch import Launch
from kernels.embed.segment_sum import LAUNCH, Lookups, segment_sum
from tests.kernels.tools.compare import random_tensors, relative_error
from tests.kernels.tools.twins import DEVICE, FP32_SUMS, poisoned


def summed(rows: Tensor, keys: Tensor, segments: int) -> Tensor:
    sums = torch.zeros(segments, rows.size(1), dtype=torch.float64, device=rows.device)
    lists = keys.numel() // rows.size(0)
    return sums.index_add_(0, keys.long(), rows.double().repeat(lists, 1))


def by_kernels(rows: Tensor, keys: Tensor, segments: int) -> Tensor:
    with poisoned():
        lookups = Lookups.empty(keys, segments)
        lookups.sort(keys, len(rows))
        return segment_sum(rows, lookups)


def random_keys(kind: str, count: int, segments: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    if kind == "all one key":
        return torch.full((count,), segments - 1)
    keys = torch.randint(0, segments, (count,), generator=generator)
    if kind == "one key heavy":
        return keys.where(torch.rand(count, generator=generator) < 0.3, segments // 2)
    if kind == "absent first and last":
        return keys.clamp(1, segments - 2)
    return keys


KINDS = ["even", "one key heavy", "all one key", "absent first and last"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "segments"),
    [(1, 3), (8, 3), (16, 5), (67, 3), (67, 40)],
    ids=["one row", "one piece", "pieces without a rest", "pieces and a rest", "few rows a key"],
)
@pytest.mark.parametrize("lists", [1, 2])
def test_sums(
    kind: str, count: int, segments: int, lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAUNCH, "pieces", Launch(rows=8, depth=4))
    monkeypatch.setitem(LAUNCH, "slots", Launch(depth=2))
    rows = random_tensors(count, rows=(count, 24))["rows"].float().to(DEVICE)
    keys = random_keys(kind, lists * count, segments).to(DEVICE, torch.int16)
    got = by_kernels(rows, keys, segments)
    assert relative_error(got, summed(rows, keys, segments)) < FP32_SUMS


def test_a_segment_without_rows_is_zero() -> None:
    keys = torch.tensor([1, 1, 3], device=DEVICE)
    got = by_kernels(torch.ones(3, 16, device=DEVICE), keys, 5)
    assert got[:, 0].tolist() == [0.0, 2.0, 0.0, 1.0, 0.0]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_real_size_gives_the_same_bits_twice(kind: str) -> None:
    rows = random_tensors(1, rows=(98_304, 512))["rows"].to(DEVICE, torch.bfloat16)
    keys = random_keys(kind, 2 * 98_304, 3072).to(DEVICE, torch.int16)
    first, second = (by_kernels(rows, keys, 3072) for _ in range(2))
    assert torch.equal(first, second)
    assert relative_error(first, summed(rows, keys, 3072)) < FP32_SUMS
