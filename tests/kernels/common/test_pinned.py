"""A device table keeps its address and has the latest values, however often it is updated."""

import torch

from kernels.common.pinned import BLOCKS, DeviceTable


def test_every_update_is_seen_at_the_same_address():
    table = DeviceTable(2, torch.int64, torch.device("cpu"))
    view = table.values
    for value in range(3 * BLOCKS):
        table.update([value, 2**62 + value])  # an address fits, which fp32 would round
        assert view.tolist() == [value, 2**62 + value]
        assert table.values is view


def test_values_are_of_the_given_dtype():
    table = DeviceTable(1, torch.float32, torch.device("cpu"))
    table.update([0.1])
    assert table.values.dtype == torch.float32
    assert table.values.item() == torch.tensor(0.1).item()
