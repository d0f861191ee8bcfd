"""Whether a rank closes its trainer, whose GPU may wait for a lost rank for ever."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.signals import Interruption
from training.rank import Rank


@pytest.mark.parametrize(
    ("ranks", "error", "closes"),
    [
        (1, RuntimeError(), True),
        (2, None, True),
        (2, RuntimeError(), False),
        (2, Interruption(signal.SIGTERM), False),
        (2, Interruption(signal.SIGTERM, step=3), True),  # on which all ranks have agreed
    ],
)
def test_one_of_several_ranks_stays_open_after_an_error(
    ranks: int, error: BaseException | None, closes: bool
) -> None:
    done = []
    trainer: Any = SimpleNamespace(close=lambda: done.append("trainer"))
    rank: Any = SimpleNamespace(
        world=SimpleNamespace(size=ranks), _close_decisions=lambda _: done.append("decisions")
    )
    try:
        with Rank.closing(rank, trainer, None):
            if error:
                raise error
    except (RuntimeError, Interruption) as raised:
        assert raised is error
    assert done == ["trainer"] * closes + ["decisions"]
