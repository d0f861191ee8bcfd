"""Every cheat is caught by the check that should; honest entrants pass all checks."""

import re
from pathlib import Path
from typing import Any

import pytest

from errors import InputError
from evaluation.audit import audit
from evaluation.audit.case import Effort
from tests.evaluation.audit.cheats import CHEATS, Cheat, windows
from tests.evaluation.audit.entrants import (
    TOKENS,
    World,
    audited,
    entrant,
    make_world,
    with_network,
    with_text,
)
from tests.evaluation.ttt.test_tilt import repeating

# All that look at scores; those of code, data and conduct have tests of their own.
SCORES = ("bytes of text", "whole split", "clocks", "strict prefix", "recorded", "watched")
SCORES += ("trial", "conduct of scoring")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_a_cheat_is_caught(cheat: Cheat, world: World, tmp_path: Path):
    effort = Effort(cheat.cuts, cheat.places)
    with entrant(world, tmp_path, cheat.patches, cheat.edit, effort, **cheat.method) as case:
        found = audited(case, *cheat.run.split(", "))
    caught = [check for check in found if check.name == cheat.rule and check.passed is False]
    assert caught, found
    assert any(cheat.words in check.found for check in caught), caught


@pytest.mark.parametrize(
    "method",
    [
        {"eval_stride": 0},
        {"eval_stride": 7, "ttt_enabled": True},
        {"ttt_enabled": True, "ttt_method": "lora", "ttt_lora_documents": 3},
        {
            "ttt_enabled": True,
            "ttt_method": "both",
            "ttt_chunk_tokens": 320,
            "ttt_lora_chunk": 16,
            "ttt_tilt": 2.0,
        },
    ],
    ids=["plain", "stride 7 and SGD", "LoRA", "both, tilted"],
)
def test_an_honest_run_passes(method: dict[str, Any], world: World, tmp_path: Path):
    if "ttt_tilt" in method:
        world = with_text(world, tmp_path / "data", repeating(TOKENS + 1, seed=6))
    with entrant(world, tmp_path, **method) as case:
        found = audited(case, *SCORES)
    assert [check for check in found if check.passed is not True] == []
    learns = case.settings.ttt_enabled
    assert len({check.name for check in found}) == (13 if learns else 10)


def test_an_honest_network_of_document_masks_passes(world: World, tmp_path: Path):
    masked = with_network(world, tmp_path / "artifact.bin", document_mask=True)
    with entrant(masked, tmp_path) as case:
        found = audited(case, "strict prefix", "recorded", "trial")
    assert [check for check in found if check.passed is not True] == []


def test_adapters_that_take_one_choice_of_targets_pass(world: World, tmp_path: Path):
    """Code that lacks ``choices`` was given several, and C2 ended in its error."""
    shape = "states[:, -targets.size(-1) :].expand(*targets.shape, -1)"
    one = [
        ("evaluation/ttt/lora.py", "    choices = True\n", ""),
        ("evaluation/ttt/lora.py", shape, "states[:, -targets.size(1) :].contiguous()"),
    ]
    with entrant(world, tmp_path, one, ttt_enabled=True, ttt_method="lora") as case:
        found = audited(case, "trial")
    assert ("C2 normalised", "TTT lora") in [(check.name, check.subject) for check in found]
    assert [check for check in found if check.passed is not True] == []


def test_verdicts_are_said_before_a_later_check_ends_in_an_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audit, "SAID", 0.0)
    said: list[str] = []
    with entrant(world, tmp_path, windows("assert not tally.record")) as case:
        case.say = said.append
        with pytest.raises(InputError, match="AssertionError"):
            audited(case, "strict prefix", "trial")
    verdicts = [line.split("  ")[0] for line in said[:-1]]
    assert verdicts == ["holds", "holds"] and "400 of 1,500 targets" in said[0]
    assert re.fullmatch(r"strict prefix: \d+ s", said[-1])
