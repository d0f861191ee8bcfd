"""Architecture: its numbers, what it refuses, that it needs no torch."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from files import PROJECT
from model.config import Architecture

# Settings, and the words that their refusal must hold.
IMPOSSIBLE: list[tuple[dict[str, object], list[str]]] = [
    ({"model_dim": 100, "num_heads": 8}, ["num_heads 8", "model_dim 100"]),
    ({"num_heads": 8, "num_kv_heads": 3}, ["num_kv_heads 3", "num_heads 8"]),
    ({"num_kv_heads": 16}, ["num_kv_heads 16", "num_heads 8"]),
    ({"rope_dims": 15}, ["rope_dims 15", "head dim 64"]),
    ({"rope_dims": 66}, ["rope_dims 66", "head dim 64"]),
    ({"num_layers": 3, "ve_layers": []}, ["xsa_last_n 4", "num_layers 3"]),
    ({"ve_layers": [9, 11, 12]}, ["ve_layers [11, 12]", "0 to 10"]),
    ({"ve_layers": [9, 9]}, ["ve_layers", "9"]),
    ({"bos_id": 1024}, ["bos_id 1024", "vocab_size 1024"]),
    ({"bigram_vocab_size": 1}, ["bigram_vocab_size 1"]),
    ({"mlp_mult": 0.001}, ["mlp_mult 0.001", "512"]),
    ({"vocab_size": 65_536}, ["vocab_size", "65536"]),
    ({"num_layers": 0}, ["num_layers", "0"]),
    ({"leaky_slope": 1.5}, ["leaky_slope", "1.5"]),
    ({"logit_softcap": 0.0}, ["logit_softcap", "0"]),
    ({"logit_softcap": float("inf")}, ["logit_softcap", "inf"]),
    ({"qk_gain_init": float("nan")}, ["qk_gain_init", "nan"]),
    ({"loop_layers": [3, 5]}, ["loop_layers [3, 5]", "consecutive", "0 and 10"]),
    ({"loop_layers": [5, 4]}, ["loop_layers [5, 4]"]),
    ({"loop_layers": [10, 11]}, ["loop_layers [10, 11]", "0 and 10"]),
    ({"num_loops": 2}, ["num_loops 2", "loop_layers"]),
    ({"parallel_from": 5}, ["parallel_from 5", "6 and 10"]),
    ({"parallel_from": 11}, ["parallel_from 11", "6 and 10"]),
    ({"parallel_from": 7, "loop_layers": [6, 7]}, ["parallel_from 7", "8 and 10"]),
    ({"window": -1}, ["window", "-1"]),
    ({"gate_window": 513}, ["gate_window 513", "model_dim 512"]),
    ({"near_window": 4, "near_layers": [11]}, ["near_layers [11]", "0 to 10"]),
    ({"near_window": 4, "near_layers": [1, 1]}, ["near_layers [1, 1]", "twice"]),
    ({"near_window": 4}, ["near_window 4", "near_layers []"]),
    ({"near_layers": [4]}, ["near_window 0", "near_layers [4]"]),
    ({"smear_window": 513}, ["smear_window 513", "model_dim 512"]),
    ({"gate_window": 12, "gated_attention": True}, ["gate_window 12", "gated_attention"]),
    ({"ve_layers": "9,x"}, ["ve_layers", "x"]),
    ({"model_dimension": 512}, ["model_dimension"]),
]


@pytest.mark.parametrize(
    ("settings", "named"), IMPOSSIBLE, ids=[str(settings) for settings, _ in IMPOSSIBLE]
)
def test_impossible_architecture_is_refused_with_its_numbers(
    settings: dict[str, object], named: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        Architecture.model_validate(settings)
    message = str(caught.value)
    assert [words for words in named if words not in message] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"num_layers": 1, "xsa_last_n": 1, "ve_layers": [0]},
        {"rope_dims": 0},
        {"rope_dims": 64},
        {"num_kv_heads": 1},
        {"num_kv_heads": 8},
        {"bigram_vocab_size": 2},
        {"bos_id": 1023},
        {"vocab_size": 65_535},
        {"ve_enabled": False, "ve_layers": [99]},
        {"loop_layers": [10], "num_loops": 3},
        {"loop_layers": list(range(11)), "num_loops": 1},
        {"parallel_from": 6},
        {"parallel_from": 10, "loop_layers": [8, 9]},
    ],
    ids=str,
)
def test_possible_architecture_at_the_edge_is_accepted(settings: dict[str, object]) -> None:
    Architecture.model_validate(settings)


def test_defaults_are_preset_seeds_numbers() -> None:
    config = Architecture.model_validate({})
    assert (config.head_dim, config.kv_dim, config.mlp_dim) == (64, 256, 1536)
    assert (config.num_skips, config.value_layers) == (5, [9, 10])


def test_layer_lists_read_as_environment_variables_write_them() -> None:
    assert Architecture.model_validate({"ve_layers": "3, 9,10"}).ve_layers == [3, 9, 10]
    assert Architecture.model_validate({"ve_layers": ""}).ve_layers == []


def test_disabled_value_embeddings_have_no_layer() -> None:
    assert Architecture.model_validate({"ve_enabled": False}).value_layers == []


def test_numbers_survive_the_artifacts_json_header() -> None:
    changes = {"ve_layers": [3], "rope_base": 12_345.678, "gated_attention": True}
    config = Architecture.model_validate(changes)
    assert Architecture.model_validate_json(config.model_dump_json()) == config


def test_header_names_visits_only_where_they_differ_from_the_first_networks() -> None:
    plain = Architecture().header()
    changes = {"loop_layers": [3], "num_loops": 1, "parallel_from": 7, "window": 5}
    changes |= {"near_window": 3, "near_layers": [2]}
    changes |= {"document_mask": True, "gate_window": 12, "smear_window": 12, "skip_gates": True}
    changed = Architecture.model_validate(changes)
    assert not changes.keys() & plain.keys()
    assert plain | changes == changed.header()
    for config in (Architecture(), changed):
        assert Architecture.model_validate(config.header()) == config


def test_config_and_plan_import_without_torch() -> None:
    program = "import sys, model.plan; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
