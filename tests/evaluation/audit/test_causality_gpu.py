"""Equal runs of test-time training in bf16 have equal bits, and no later token moves a score."""

import pytest
import torch

from evaluation.audit.causality import causality, choose_cuts
from evaluation.audit.runs import STILL, Baseline
from evaluation.score import Record, Score, Scoring, Split, Tokens
from evaluation.ttt.learner import Watch
from evaluation.ttt.methods import score_adapting
from runtime.ranks import World
from tests.evaluation.audit.runs import baseline
from tests.evaluation.network import (
    BOS,
    BYTES,
    VOCAB,
    network_in_bf16,
    settings_of_frontier_parts,
    tokens_of_documents,
)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["lora", "both"])
def test_no_cut_moves_an_earlier_score(method: str):
    """Two documents at once, as in an audit: few enough that PyTorch's attention is a race."""
    world, tokens = World.single(torch.device("cuda", 0)), tokens_of_documents(1_700, 3, 400)

    def runs_of(documents: int) -> Baseline:
        settings = settings_of_frontier_parts(
            ttt_method=method,
            ttt_lr=0.05,
            ttt_lora_lr=0.003,
            ttt_chunk_tokens=512,
            ttt_batch_seqs=2,
            ttt_lora_documents=documents,
        )
        model = network_in_bf16(settings, world.device)

        def run(text: Tokens, record: Record, watch: Watch) -> Score:
            split, scoring = Split(text, BYTES), Scoring(world, record=record)
            return score_adapting(model, "kernels", split, settings, scoring, watch)

        return baseline(run, tokens)

    together, one_by_one = runs_of(2), runs_of(1)
    cuts = choose_cuts(tokens, BOS, 512, 6)
    check = causality("TTT", together, cuts, VOCAB, BOS, one_by_one=one_by_one)
    assert check.passed, check
    assert together.allowed.max() == one_by_one.allowed.max() == STILL
