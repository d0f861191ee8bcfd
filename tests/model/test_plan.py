"""The table of visits: which layers, in which order, with which skips, bounds and blocks."""

import pytest

from model.config import Architecture
from model.plan import plan

LOOPED: dict[str, object] = {"loop_layers": [3, 4, 5], "num_loops": 2}


def architecture(**changes: object) -> Architecture:
    return Architecture.model_validate(changes)


def test_without_loops_each_layer_has_one_visit() -> None:
    visits = plan(architecture())
    assert [visit.layer for visit in visits] == list(range(11))
    assert [visit.skip for visit in visits] == [None] * 5 + [4, 3, 2, 1, 0, None]
    assert [visit.skip_row for visit in visits] == [None] * 5 + [0, 1, 2, 3, 4, None]
    assert [visit.exclude_self for visit in visits] == [False] * 7 + [True] * 4
    assert {(v.block, v.window, v.documents) for v in visits} == {("serial", None, False)}


def test_loop_layers_come_again_before_the_others() -> None:
    """The order of parameter-golf PR #1855."""
    visits = plan(architecture(**LOOPED))
    assert [visit.layer for visit in visits[:8]] == [0, 1, 2, 3, 4, 5, 3, 4]
    assert [visit.layer for visit in visits[8:]] == [5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [visit.skip for visit in visits[8:]] == [7, 6, 5, 4, 3, 2, 1, 0, None]
    assert [visit.skip_row for visit in visits[8:]] == [*range(8), None]
    assert [visit.exclude_self for visit in visits[8:]] == [False] * 5 + [True] * 4


@pytest.mark.parametrize("layers", [1, 2, 3, 6, 11])
@pytest.mark.parametrize("loops", [0, 1, 2, 5])
def test_every_visit_of_the_first_half_enters_one_of_the_second(layers: int, loops: int) -> None:
    config = architecture(
        num_layers=layers, xsa_last_n=0, ve_enabled=False, loop_layers=[0], num_loops=loops
    )
    visits = plan(config)
    assert len(visits) == layers + loops
    taken = [visit.skip for visit in visits if visit.skip is not None]
    assert taken == list(reversed(range(len(visits) // 2)))
    assert [v.skip_row for v in visits if v.skip is not None] == list(range(config.num_skips))


def test_fewer_loops_use_the_first_rows() -> None:
    visits = plan(architecture(**LOOPED), loops=0)
    assert visits == plan(architecture())
    assert len(plan(architecture(**LOOPED), loops=1)) == 14


@pytest.mark.parametrize("loops", [-1, 3])
def test_loops_without_parameters_are_refused(loops: int) -> None:
    with pytest.raises(ValueError, match=f"{loops} loops.*num_loops 2"):
        plan(architecture(**LOOPED), loops=loops)


def test_window_and_documents_are_the_architectures_unless_given() -> None:
    config = architecture(window=7, document_mask=True)
    assert {(v.window, v.documents) for v in plan(config)} == {(7, True)}
    assert {(v.window, v.documents) for v in plan(config, window=0)} == {(None, True)}
    assert {(v.window, v.documents) for v in plan(config, documents=False)} == {(7, False)}
    assert {v.window for v in plan(architecture(), window=3)} == {3}


def test_near_layers_see_the_smaller_window() -> None:
    config = architecture(window=7, near_window=3, near_layers=[1, 10])
    near = [visit.layer for visit in plan(config) if visit.window == 3]
    assert near == [1, 10] and {visit.window for visit in plan(config)} == {3, 7}
    assert {visit.window for visit in plan(config, window=2)} == {2}
    assert {visit.window for visit in plan(config, window=0)} == {3, None}


def test_lanes_begin_at_their_layer() -> None:
    blocks = [visit.block for visit in plan(architecture(parallel_from=8, **LOOPED))]
    assert blocks == ["serial"] * 14 + ["parallel"] * 3
