"""The model comes back from the file alone, or not at all."""

import pytest
import torch

from artifact.export import export
from artifact.format.container import read
from artifact.quantisation.recipe import Recipe, Role
from artifact.restore import restore
from errors import InputError
from model.gpt import GPT
from model.parameters import exported, roles, stored
from tests.small import small_model


@pytest.fixture
def model() -> GPT:
    return small_model(0.02, vocab_size=64)


def test_a_restored_model_scores_like_the_weights_it_was_made_from(model, tmp_path):
    weights = dict(model.named_parameters())
    recipe = Recipe(Role(8), Role(8))
    architecture, of = model.config.model_dump(), roles(model.config)
    export(tmp_path / "a.bin", architecture, weights, of, recipe)
    restored = restore(tmp_path / "a.bin", 16, torch.device("cpu"))
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1)).int()
    ours, theirs = (m.score(tokens[:, :-1], tokens[:, 1:]) for m in (restored, model))
    assert restored.config == model.config
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_edges_come_back_exactly_and_take_less_than_4_kilobytes(tmp_path):
    vocabulary, rows = 1024, 2048
    generator = torch.Generator().manual_seed(5)
    keys = torch.randperm(vocabulary**2, generator=generator)[: rows - 2].sort().values
    edges = torch.stack((keys // vocabulary, keys % vocabulary))
    changes = {"bigram_vocab_size": rows, "bigram_rows": "information"}
    model = small_model(0.02, vocab_size=vocabulary, **changes)
    assert model.edges is not None
    model.edges.copy_(edges)
    path, of = tmp_path / "a.bin", roles(model.config)
    report = export(path, model.config.header() | {"mtp_num_heads": 0}, stored(model), of)
    assert report.streams["edges uint16"] < 4096
    restored = restore(path, 16, torch.device("cpu"))
    assert restored.edges is not None
    assert torch.equal(restored.edges, model.edges)
    assert restored.edges.dtype == torch.int32
    # Every second position holds an edge.
    tokens = edges[:, torch.randint(0, rows - 2, (3, 9), generator=generator)].flip(0)
    tokens = tokens.permute(1, 2, 0).reshape(3, 18).int()
    ours = restored.score(tokens[:, :16], tokens[:, 1:17])
    restored.edges.zero_()
    assert not torch.equal(restored.score(tokens[:, :16], tokens[:, 1:17]), ours)
    theirs = model.score(tokens[:, :16], tokens[:, 1:17])
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    export(path, model.config.header() | {"mtp_num_heads": 0}, exported(model), of)
    with pytest.raises(InputError, match="do not fit its architecture: edges"):
        restore(path, 16, torch.device("cpu"))


def test_corrections_are_no_parameters_and_fit_one(model, tmp_path):
    weights, of = dict(model.named_parameters()), roles(model.config)
    recipe = Recipe(Role(3), Role(3), rank=2, corrected=2)
    inputs = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(4))
    hessians = {
        "down_bank": torch.eye(96).expand(3, 96, 96),
        "qo_bank": torch.eye(32).repeat(6, 1, 1),
    }
    hessians["qo_bank"][:2] += inputs.mT @ inputs
    export(tmp_path / "a.bin", model.config.header(), weights, of, recipe, hessians)
    assert any(name.endswith(".left") for name in read(tmp_path / "a.bin")[1])
    restore(tmp_path / "a.bin", 16, torch.device("cpu"))
    other = weights | {"odd.left": torch.ones(2)}
    export(tmp_path / "a.bin", model.config.header(), other, of | {"odd.left": "small"})
    with pytest.raises(InputError, match=r"do not fit its architecture: odd\.left"):
        restore(tmp_path / "a.bin", 16, torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide"),
        ({"num_layers": 4}, "qo_bank"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"mtp_num_heads": 6000}, "6000 prediction heads"),
        ({"num_layers": 10**7}, "10000000|10,000,000 layers"),
        ({"num_layers": 10**19}, "more than 19 digits|less than or equal|layers"),
        ({"loop_layers": [0, 1, 2], "num_loops": 1024}, "tensors|layers"),
        ({"model_dim": 1 << 20, "num_heads": 1 << 14, "num_kv_heads": 1 << 14}, "model_dim"),
        ({"mlp_mult": 1e308}, "too large|impossible"),
        ({"rope_base": 1e400}, "no number|finite"),
        ({"num_layers": 10**15}, "num_layers"),
        ({"model_dim": 10**12}, "model_dim"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_before_anything_is_decoded(
    model, tmp_path, change, words, monkeypatch
):
    monkeypatch.setattr("artifact.restore.GPT", None)
    architecture = model.config.model_dump() | change
    export(tmp_path / "a.bin", architecture, dict(model.named_parameters()), roles(model.config))
    monkeypatch.setattr("artifact.format.container._unpack_stream", None)
    with pytest.raises(InputError, match=words) as refused:
        restore(tmp_path / "a.bin", 16, torch.device("cpu"))
    assert "\n" not in str(refused.value)
