"""Stages and choices make the variants of a run; what none can be is refused in one line."""

import re
import tomllib

import pytest

from errors import InputError
from files import PROJECT
from model.plan import plan
from runtime.run_folder import to_toml
from settings import Settings
from settings.load import load_settings, read_preset
from settings.variants import Variant, reachable, stage_variants, with_choices

TWO = "[{until=0.35, train_batch_tokens=49152, train_seq_len=1024}, {until=1.0}]"


def load(stages: str, *more: str) -> Settings:
    return load_settings(["--preset", "sprint", "--stages", stages, *more], {})


def test_a_run_without_stages_has_one_variant_of_its_settings():
    settings = load_settings(["--preset", "sprint"], {})
    assert stage_variants(settings) == reachable(settings) == (Variant(98_304, 2048, heads=2),)


def test_a_stage_changes_what_it_names():
    first, last = stage_variants(load(TWO))
    assert first == Variant(49_152, 1024, heads=2)
    assert last == Variant(98_304, 2048, heads=2)


def test_the_last_stages_variant_comes_first_and_none_twice():
    settings = load("[{until=0.2}, {until=0.5, mtp_num_heads=0}, {until=1.0}]")
    assert reachable(settings) == (Variant(98_304, 2048, heads=2), Variant(98_304, 2048))


def test_stages_come_from_a_file_the_environment_and_the_command_line(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[[stages]]\nuntil = 0.5\ndocuments = true\n[[stages]]\nuntil = 1.0\n")
    of_file = load_settings(["--config", str(config)], {})
    text = "[{until=0.5, documents=true}, {until=1.0}]"
    assert of_file.stages == load_settings([], {"MURMURATION_STAGES": text}).stages
    assert of_file.stages == load(text).stages
    assert load_settings(["--config", str(config), "--stages", "[]"], {}).stages == []


def test_a_run_folders_settings_hold_the_stages(tmp_path):
    settings = load(TWO)
    written = to_toml(settings.model_dump(exclude={"run_dir", "resume", "config"}))
    (tmp_path / "settings.toml").write_text(written)
    assert load_settings(["--resume", str(tmp_path)], {}).stages == settings.stages
    assert tomllib.loads(written)["stages"][1] == {"until": 1.0}


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("[{until=0.35}]", "the last stage must have until = 1.0, but it ends at 0.35"),
        ("[{until=0.5}, {until=0.4}, {until=1}]", "end at [0.5, 0.4, 1.0]"),
        ("[{until=0.5}, {until=1.5}]", "stages.1.until"),
        ("[{loops=0}]", "stages.0.until"),
        ("[{until=1, loop=1}]", "did you mean loops?"),
        ("[{until=1, precision='fp4'}]", "'native' or 'fp8'"),
        ("[{until=", "TOML list"),
        ("[{until=1, train_seq_len=1000}]", "98304 is no multiple of train_seq_len 1000"),
        ("[{until=1, mtp_num_heads=3}]", "more than the network's mtp_num_heads 2"),
        ("[{until=1, loops=2}]", "2 loops are more than the network's num_loops 0"),
        ("[{until=1, near_window=8}]", "near_window 8 needs near_layers"),
    ],
)
def test_an_impossible_stage_is_one_line(stages, words):
    with pytest.raises(InputError) as refused:
        load(stages)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_targets_after_the_next_exclude_mtp_heads():
    with pytest.raises(InputError, match="mtp_targets 1 excludes MTP heads: give mtp_num_heads 0"):
        load("[]", "--mtp-targets", "1")
    load("[]", "--mtp-targets", "2", "--mtp-num-heads", "0")


def test_more_than_eight_variants_are_refused():
    ends = [f"{{until={k / 10}, train_batch_tokens={2048 * k}}}" for k in range(1, 10)]
    with pytest.raises(InputError, match="make 9 variants"):
        load(f"[{', '.join(ends)}, {{until=1.0, train_batch_tokens=2048}}]")


def test_each_choice_of_the_swarm_is_reachable_in_each_stage():
    stages = "[{until=0.5, train_batch_tokens=49152}, {until=1.0}]"
    settings = load(stages, "--swarm-windows", "512,1024", "--swarm-heads", "2")
    found = reachable(settings)
    assert found[0] == Variant(98_304, 2048, heads=2)
    assert {(each.batch_tokens, each.window) for each in found} == {
        (tokens, window) for tokens in (49_152, 98_304) for window in (0, 512, 1024)
    }
    assert len(reachable(settings.model_copy(update={"swarm": False}))) == 2


def test_an_impossible_choice_is_one_line():
    with pytest.raises(InputError, match="2 loops are more than the network's num_loops 0"):
        load("[]", "--swarm-loops", "0,2")
    with pytest.raises(InputError, match="make 12 variants"):
        load("[]", "--swarm-windows", "64,128,256", "--swarm-heads", "0,1")


def test_a_choice_replaces_the_stages_value_and_other_levers_do_not():
    variant = Variant(4096, 256, window=64, heads=2)
    assert with_choices(variant, {"qat": 1.0}) == variant
    assert with_choices(variant, {"window": 0.0, "heads": 1.0}) == Variant(4096, 256, heads=1)


PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def examples() -> list[Settings]:
    """Return preset sprint's settings with each example of the docs, then the preset it names."""
    found = []
    for text in EXAMPLES:
        given = {"preset": "sprint", **tomllib.loads(text)}
        found.append(Settings.model_validate(read_preset("sprint") | given))
    assert "A growing window: `presets/frontier-sprint.toml`." in PAGE
    return [*found, load_settings(["--preset", "frontier-sprint"], {})]


def test_each_example_of_the_docs_is_a_presets_lines():
    assert len(EXAMPLES) == 4
    loops, lanes, documents, batches, windows = map(stage_variants, examples())
    assert [variant.loops for variant in loops] == [0, 2]
    assert [variant.documents for variant in documents] == [True]
    assert [variant.batch_tokens for variant in batches] == [49_152, 98_304]
    assert [variant.window for variant in windows] == [256, 512, 2048]
    assert len(lanes) == 1
    for settings in examples():
        assert len(reachable(settings)) == len(stage_variants(settings))


def test_the_plans_of_the_docs_examples():
    loops, lanes, documents, _, windows = examples()
    plans = [plan(loops.architecture(), variant.loops) for variant in stage_variants(loops)]
    assert [len(visits) for visits in plans] == [11, 17]
    assert [visit.layer for visit in plans[1]] == [0, 1, 2, *3 * [3, 4, 5], 6, 7, 8, 9, 10]
    blocks = [visit.block for visit in plan(lanes.architecture())]
    assert blocks == 8 * ["serial"] + 3 * ["parallel"]
    assert all(visit.documents for visit in plan(documents.architecture()))
    by_stage = [
        {visit.window for visit in plan(windows.architecture(), window=variant.window)}
        for variant in stage_variants(windows)
    ]
    assert by_stage == [{128, 256}, {128, 512}, {128, 2048}]
