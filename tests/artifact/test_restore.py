"""The model comes back from the file alone, or not at all."""

import pytest
import torch

from artifact.export import export
from artifact.quantise import Recipe, Role
from artifact.restore import restore
from errors import InputError
from kernels import operations
from model.config import Architecture
from model.gpt import GPT

SMALL = {"vocab_size": 64, "num_layers": 3, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2}
SMALL |= {"rope_dims": 4, "xsa_last_n": 1, "ve_layers": [2], "mtp_num_heads": 0}


@pytest.fixture
def model() -> GPT:
    config = Architecture.model_validate(SMALL)
    made = GPT(config, operations("reference"), dtype=torch.float32, max_seq_len=16, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return made


def test_a_restored_model_scores_like_the_weights_it_was_made_from(model, tmp_path):
    weights = dict(model.named_parameters())
    recipe = Recipe(Role(8), Role(8))
    export(tmp_path / "a.bin", model.config.model_dump(), weights, recipe)
    restored = restore(tmp_path / "a.bin", 16, torch.device("cpu"))
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1)).int()
    ours, theirs = (m.score(tokens[:, :-1], tokens[:, 1:]) for m in (restored, model))
    assert restored.config == model.config
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide"),
        ({"num_layers": 4}, "qo_bank"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(model, tmp_path, change, words):
    architecture = model.config.model_dump() | change
    export(tmp_path / "a.bin", architecture, dict(model.named_parameters()))
    with pytest.raises(InputError, match=words) as refused:
        restore(tmp_path / "a.bin", 16, torch.device("cpu"))
    assert "\n" not in str(refused.value)
