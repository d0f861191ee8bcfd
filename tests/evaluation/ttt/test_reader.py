"""Documents read chunk by chunk against whole documents, in networks with every part."""

import numpy as np
import pytest
import torch

from evaluation.audit.observing import TokenArray
from evaluation.score import Scoring
from evaluation.ttt.documents import find_documents
from evaluation.ttt.lora import document_adapters
from evaluation.ttt.methods import score_adapting
from model.gpt import GPT
from model.hooks import Site
from model.plan import plan
from settings import Settings
from tests.evaluation.network import (
    BOS,
    CPU,
    LENGTH,
    Scores,
    fresh,
    small_settings,
    split_of,
    tokens_of_documents,
)

TOKENS = tokens_of_documents(150, seed=6)
MATRICES = ["q", "k", "v", "o", "attention", "mlp", "head"]
# A bigram, both gates, a looped layer, two lanes, gated skips, windows, masks: all that there is.
FULL = {
    "loop_layers": [0],
    "num_loops": 1,
    "parallel_from": 2,
    "gate_window": 8,
    "smear_window": 8,
    "skip_gates": True,
    "value_residual": True,
    "document_mask": True,
    "window": 12,
    "near_window": 5,
    "near_layers": [1],
    "xsa_last_n": 3,
}
NETWORKS = {"as it is": {}, "full": FULL, "gated": {"gated_attention": True, "window": 9}}


def network(settings: Settings) -> GPT:
    """All weights far from their beginnings, so that no part is without effect."""
    model, generator = fresh(settings), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def of_documents(model: GPT, settings: Settings) -> np.ndarray:
    """Nats (targets,) of each document alone and whole, positions seeing no more than a window."""
    whole = GPT(
        settings.architecture(), model.ops, dtype=torch.float32, max_seq_len=len(TOKENS), seed=1
    )
    whole.load_state_dict(model.state_dict())
    reach = min(settings.window or LENGTH, LENGTH)
    whole.plan = plan(whole.config, window=reach)
    nats = np.zeros(len(TOKENS))
    for document in find_documents(TokenArray(TOKENS), len(TOKENS) - 1, BOS):
        text = torch.from_numpy(TOKENS[document.first : document.last + 1].astype(np.int32))[None]
        with torch.no_grad():
            found = whole.score(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        nats[document.first + 1 : document.last + 1] = found[0]
    return nats[1:]


@pytest.mark.parametrize(("name", "chunk"), [("full", 4), ("as it is", 5), ("gated", 8)])
def test_without_a_rate_each_document_scores_as_a_whole(name: str, chunk: int):
    settings = small_settings(
        **NETWORKS[name],
        ttt_method="lora",
        ttt_lora_lr=0.0,
        ttt_lora_chunk=chunk,
        ttt_lora_matrices=MATRICES,
    )
    model, scores = network(settings), Scores()
    scoring = Scoring(CPU, record=scores)
    score_adapting(model, "reference", split_of(TOKENS), settings, scoring)
    np.testing.assert_allclose(scores.by_position(), of_documents(model, settings), atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_get_what_their_normed_inputs_make(name: str):
    """What is added beside a branch is added to its output, read or not, on one lane and on two."""
    settings = small_settings(**NETWORKS[name])
    model = network(settings)
    tokens = torch.from_numpy(TOKENS[:LENGTH].astype(np.int32))[None]
    sites: dict[Site, torch.Tensor] = {}

    class Reads:
        matrices, replaces = ("o", "up", "attention", "mlp"), False

        def __call__(self, site: Site, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            sites[site] = x.clone()
            return y

    with torch.no_grad():
        plain = model.hidden(tokens)
        assert torch.equal(model.hidden(tokens, hook=Reads()), plain)
    visits = range(len(model.plan))
    assert {(site.matrix, site.visit) for site in sites} == {
        (matrix, visit) for matrix in Reads.matrices for visit in visits
    }
    for site, x in sites.items():
        if site.matrix == "mlp":
            assert torch.equal(x, sites[site._replace(matrix="up")])


def test_adapters_of_every_matrix_learn_and_documents_that_ended_do_not():
    settings = small_settings(**FULL, ttt_lora_matrices=MATRICES, ttt_lora_lr=0.01)
    model = network(settings)
    tokens = torch.from_numpy(TOKENS[: 4 * 9].astype(np.int32)).view(4, 9)
    positions = torch.arange(32).view(4, 8)
    positions[1] = -1
    with document_adapters(model, settings, CPU) as adapters:
        before = [tensor.clone() for tensor in adapters.tensors()]
        for _ in range(2):
            adapters.update(tokens, positions, 1.0)
        for old, new in zip(before, adapters.tensors(), strict=True):
            changed = (old != new).flatten(2).any(2)
            assert changed[:, [0, 2, 3]].all() and not changed[:, 1].any()
