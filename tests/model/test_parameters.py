"""The table of parameters: its rows are the network's, and say what each index and tensor is."""

import subprocess
import sys

import pytest

from artifact.quantisation.recipe import Recipe
from files import PROJECT
from model.config import Architecture
from model.parameters import Constant, bank, parameters, roles, small, stored_as
from model.plan import plan
from tests.model.small import PARTS, architecture, fresh
from training.optimizer import RULES

LOOPS = {"loop_layers": [1, 2], "num_loops": 2}


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_the_networks_parameters_in_order(part: str):
    config = architecture(part)
    named = [(name, tuple(p.shape)) for name, p in fresh(config).named_parameters()]
    assert [(spec.name, spec.shape) for spec in parameters(config)] == named


@pytest.mark.parametrize("part", ["everything", "all options", "value embeddings out of order"])
def test_each_row_has_a_rule_a_storage_and_a_slice_for_each_index(part: str):
    for spec in parameters(architecture(part)):
        assert spec.rule in RULES
        assert spec.storage in ("small", "none") or hasattr(Recipe(), spec.storage)
        assert len(spec.slices) in (0, spec.shape[0] if spec.shape else 0)
        if RULES[spec.rule].optimizer == "muon":
            assert len(spec.shape) == 3


def test_slices_name_matrix_and_layer():
    config = architecture(**LOOPS)
    of = {spec.name: spec.slices for spec in parameters(config)}
    layers = config.num_layers
    assert of["qo_bank"][1] == ("q", 1)
    assert of["qo_bank"][layers + 1] == ("o", 1)
    assert of["kv_bank"][-1] == ("v", layers - 1)
    assert [layer for _, layer in of["value_layer_scale"]] == config.value_layers
    rows = {visit.skip_row: visit.layer for visit in plan(config) if visit.skip_row is not None}
    assert [layer for _, layer in of["skip_weight"]] == [rows[row] for row in range(len(rows))]
    assert of["tok_emb"] == of["bigram_proj"] == of["smear_gate"] == ()


@pytest.mark.parametrize(("tied", "name"), [(True, "tok_emb"), (False, "head")])
def test_the_heads_matrix_is_named_once(tied: bool, name: str):
    specs = parameters(architecture(tie_embeddings=tied))
    assert [spec.name for spec in specs if spec.product == "head"] == [name]


def test_storage_of_seed():
    storage = roles(Architecture())
    assert {name for name, role in storage.items() if role != "small"} == {
        *("qo_bank", "kv_bank", "up_bank", "down_bank"),
        *("tok_emb", "bigram_table", "value_table", "mtp_heads"),
    }
    assert storage["kv_bank"] == "attention"
    assert storage["down_bank"] == "mlp"
    assert storage["tok_emb"] == "embed"
    assert storage["value_table"] == "table"
    assert storage["mtp_heads"] == "none"


def test_only_matrices_of_more_than_65_536_elements_are_coded():
    assert stored_as("table", (1024, 64)) == "small"
    assert stored_as("table", (1024, 65)) == "table"
    assert stored_as("table", (2, 2, 65_536)) == "small"
    assert small("wide", Constant((0.0,)), 300, 300).storage == "table"
    assert bank("tiny", "mlp", Constant((0.0,)), (1, 1)).storage == "mlp"


def test_the_table_does_without_torch():
    code = "import sys, model.parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
