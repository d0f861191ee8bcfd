"""Levels of codes against the machine walked step by step."""

import torch

from artifact.trellis import STATES, following, levels, order_of

# Of Ungerboeck's code: the state after a code whose last bit is 0, and is 1.
TABLE = [(0, 2), (5, 7), (1, 3), (4, 6), (2, 0), (7, 5), (3, 1), (6, 4)]


def test_the_machine_is_the_table() -> None:
    for state, expected in enumerate(TABLE):
        found = [int(following(torch.tensor(state), torch.tensor(code))) for code in (-4, -3)]
        assert found == list(expected)
    assert len(TABLE) == STATES
    entered = [state for pair in TABLE for state in pair]
    assert sorted(entered) == sorted(2 * list(range(STATES)))


def test_levels_are_those_of_the_walk() -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-127, 128, (2, 5, 33), generator=generator, dtype=torch.int8)
    factors = torch.randint(1, 5, (2, 33), generator=generator).float()
    for order in (None, order_of(factors)):
        found = levels(codes, order)
        for bank in range(2):
            columns = range(33)
            if order is not None:
                columns = sorted(columns, key=lambda at: factors[bank, at].item())
            for row in range(5):
                state = 0
                for column in columns:
                    code = int(codes[bank, row, column])
                    assert found[bank, row, column] == code + (state % 2) / 2
                    state = TABLE[state][code % 2]


def test_a_bank_of_nothing_has_levels() -> None:
    empty = torch.empty(2, 0, 7, dtype=torch.int8)
    assert levels(empty, None).shape == empty.shape
    assert levels(torch.empty(3, 0, dtype=torch.int8), order_of(torch.empty(0))).shape == (3, 0)
