"""Initial weights: their number, their rule for each parameter, their seed."""

import pytest
import torch
from torch import Tensor

from model.config import Architecture
from model.gpt import GPT
from model.initial_weights import orthogonal
from tests.model.small import VOCAB, architecture, fresh

RANDOM = {"tok_emb", "value_table", "qo_bank", "kv_bank", "up_bank", "bigram_proj", "value_proj"}


@pytest.fixture(scope="module")
def network() -> GPT:
    """Preset ``seed``'s network but narrower and shallower, with tables large enough to sample."""
    narrow = {"model_dim": 128, "num_layers": 4, "ve_layers": [2, 3]}
    return fresh(Architecture.model_validate(narrow))


def parameter_count(config: Architecture) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in fresh(config).parameters())


def assert_orthogonal(matrices: Tensor) -> None:
    """Rows, or columns where they are fewer, are orthonormal within fp32's rounding."""
    for matrix in matrices.double().view(-1, *matrices.shape[-2:]):
        tall = matrix if matrix.size(0) > matrix.size(1) else matrix.T
        deviation = tall.T @ tall - torch.eye(tall.size(1), dtype=torch.float64)
        assert float(deviation.abs().max()) < 1e-5


def test_seed_has_28_042_332_parameters_and_26_993_756_without_its_mtp_heads() -> None:
    assert parameter_count(Architecture.model_validate({"mtp_num_heads": 2})) == 28_042_332
    assert parameter_count(Architecture.model_validate({"mtp_num_heads": 0})) == 26_993_756


def test_matrices_that_read_the_stream_are_orthogonal(network: GPT) -> None:
    layers = network.config.num_layers
    assert_orthogonal(network.qo_bank.detach()[:layers])
    assert_orthogonal(network.kv_bank.detach())
    assert_orthogonal(network.up_bank.detach())


def test_every_orthogonal_matrix_is_another(network: GPT) -> None:
    bank = network.kv_bank.detach()
    assert len(bank[:, 0, 0].unique()) == len(bank)


def test_matrices_that_write_to_the_stream_are_zero(network: GPT) -> None:
    layers = network.config.num_layers
    assert not network.qo_bank[layers:].any()
    assert not network.down_bank.any()


def test_small_projections_are_orthogonal_so_that_their_tables_learn(network: GPT) -> None:
    assert_orthogonal(network.bigram_proj.detach())
    assert_orthogonal(network.value_proj.detach())


def test_tables(network: GPT) -> None:
    """A sample's std is within five of its own standard errors, std / sqrt(2 n)."""
    for table, std in ((network.tok_emb, 0.005), (network.value_table, 0.01)):
        assert table.std().item() == pytest.approx(std, rel=5 / (2 * table.numel()) ** 0.5)
        assert abs(table.mean().item()) < 5 * std / table.numel() ** 0.5
    assert not network.bigram_table.any()


def test_embedding_std_is_the_architectures() -> None:
    model = fresh(architecture(tied_embed_init_std=0.7))
    assert model.tok_emb.std().item() == pytest.approx(0.7, rel=5 / (2 * 50 * 32) ** 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smear_gate", 0.0),
        ("bigram_scale", 0.05),
        ("value_scale", 0.1),
        ("value_layer_scale", 1.0),
        ("attn_scale", 1.0),
        ("mlp_scale", 1.0),
        ("skip_weight", 1.0),
        ("q_gain", 1.5),
        ("mtp_heads", 0.0),
        ("head", 0.0),
        ("gate_weight", 0.0),
        ("gate_bias", 4.0),
        ("value_residual", 0.5),
        ("lane_keep", 1.1),
        ("lane_mix", 1.0),
    ],
)
def test_constants(name: str, value: float) -> None:
    parameter = fresh(architecture("all options", parallel_from=3)).get_parameter(name)
    assert torch.equal(parameter, torch.full_like(parameter, value))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gate_weight", (8, 4, 12)),
        ("smear_gate", (12,)),
        ("smear_scale", ()),
        ("skip_gate", (6, 32)),
    ],
)
def test_gates_of_windows_and_skips_start_at_zero(name: str, shape: tuple[int, ...]) -> None:
    parameter = fresh(architecture("frontier")).get_parameter(name)
    assert torch.equal(parameter, torch.zeros(shape))


def test_query_gain_is_the_architectures() -> None:
    assert fresh(architecture(qk_gain_init=2.5)).q_gain.unique().tolist() == [2.5]


def test_mix_passes_the_stream_and_none_of_the_input() -> None:
    mix = fresh(architecture()).mix
    assert mix[:, 0].unique().tolist() == [1.0]
    assert mix[:, 1].unique().tolist() == [0.0]


def test_embedding_gain_multiplies_each_tokens_row_and_nothing_else() -> None:
    gain = torch.linspace(1, 2, VOCAB)
    config = architecture("all options")
    plain = fresh(config, seed=7).state_dict()
    gained = fresh(config, seed=7, embedding_gain=gain).state_dict()
    assert torch.equal(gained.pop("tok_emb"), plain.pop("tok_emb") * gain[:, None])
    assert all(torch.equal(gained[name], plain[name]) for name in plain)


def test_same_seed_same_weights_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    one = fresh(architecture("all options"), seed=7).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = fresh(architecture("all options"), seed=7).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_gives_other_weights_wherever_they_are_random() -> None:
    one, other = (fresh(architecture("all options"), seed=seed).state_dict() for seed in (7, 8))
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == RANDOM


def test_state_holds_parameters_alone(network: GPT) -> None:
    """The rotary table follows from the architecture; no checkpoint carries it."""
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 9, 5), (2, 6, 6)])
def test_orthogonal_fills_each_slice(shape: tuple[int, ...]) -> None:
    matrices = torch.full(shape, torch.nan)
    orthogonal(matrices, torch.Generator().manual_seed(1))
    assert_orthogonal(matrices)
