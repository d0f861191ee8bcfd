"""Score-first training of the weights, against a loop that does one thing after the other."""

import math

import numpy as np
import pytest
import torch

from errors import InputError
from evaluation.score import Score, Scoring, Split
from evaluation.ttt.learner import Learner, Watch, unwatched
from evaluation.ttt.methods import score_adapting
from evaluation.ttt.sgd import learning_weights
from evaluation.windows import WindowPlan, evaluate
from model.gpt import GPT
from runtime.ranks import World
from settings import Settings
from tests.evaluation.network import (
    CPU,
    LENGTH,
    Scores,
    Watched,
    small_settings,
    split_of,
    tokens_of_documents,
    trained,
)
from tests.ranks import on_ranks

TOKENS = tokens_of_documents(300, seed=3)  # four chunks of 64 targets and one of 43


def adapt(
    settings: Settings,
    model: GPT | None = None,
    split: Split | None = None,
    scoring: Scoring | None = None,
    watch: Watch = unwatched,
) -> Score:
    model, split = model or trained(settings), split or split_of(TOKENS)
    scoring = scoring or Scoring(CPU)
    return score_adapting(model, "reference", split, settings, scoring, watch)


def sliding(settings: Settings, tokens: np.ndarray = TOKENS) -> Score:
    return evaluate(
        trained(settings).score,
        split_of(tokens),
        WindowPlan(LENGTH, settings.eval_stride, batch=5),
        Scoring(CPU),
    )


def naive(settings: Settings) -> np.ndarray:
    """Nats of each target: score a chunk window by window, then step by step of plain SGD."""
    model, nats = trained(settings), np.zeros(len(TOKENS))
    weights = [p for name, p in model.named_parameters() if name != "mtp_heads"]
    momentum = [torch.zeros_like(p) for p in weights]
    text = torch.from_numpy(TOKENS.astype(np.int32))[None]
    chunk, last, stride = settings.ttt_chunk_tokens, len(TOKENS) - 1, settings.eval_stride
    chunks, scored = math.ceil(last / chunk), 0
    for index in range(chunks):
        while scored < min((index + 1) * chunk, last):
            end = LENGTH if scored == 0 else min(scored + stride, last)
            inputs, targets = text[:, end - LENGTH : end], text[:, end - LENGTH + 1 : end + 1]
            with torch.no_grad():
                nats[scored + 1 : end + 1] = model.score(inputs, targets)[0, scored - end :]
            scored = end
        if index == chunks - 1:
            break
        rate = settings.ttt_lr * (1 + math.cos(math.pi * index / (chunks - 1))) / 2
        for _ in range(settings.ttt_epochs):
            for begin in range(index * chunk, (index + 1) * chunk, 2 * LENGTH):
                rows = [text[0, at : at + LENGTH + 1] for at in (begin, begin + LENGTH)]
                batch = torch.stack(rows)
                loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())[0]
                gradients = torch.autograd.grad(loss, weights)
                norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
                factor = min(1.0, settings.ttt_grad_clip / norm)
                for weight, moment, gradient in zip(weights, momentum, gradients, strict=True):
                    moment.mul_(settings.ttt_momentum).add_(gradient * factor)
                    weight.data -= rate * moment
    return nats[1:]


def test_equals_one_thing_after_the_other():
    settings = small_settings(ttt_grad_clip=0.5)
    scores = Scores()
    found = adapt(settings, scoring=Scoring(CPU, record=scores))
    expected = naive(settings)
    np.testing.assert_allclose(scores.by_position(), expected, atol=2e-5)
    assert found.nats == pytest.approx(expected.mean(), abs=1e-6)
    assert (found.tokens, found.bytes) == (299, 299)
    assert found.bpb == pytest.approx(found.nats / math.log(2), rel=1e-9)


def test_learning_lowers_the_score_and_without_a_rate_there_is_none():
    """A text that says the same over and over, with a period longer than a window."""
    same = np.resize(np.random.default_rng(1).integers(2, 40, 37), 600).astype(np.uint16)
    fixed, still = sliding(small_settings(), same), small_settings(ttt_lr=0.0)
    assert adapt(small_settings(), split=split_of(same)).bpb < 0.8 * fixed.bpb
    assert adapt(still, split=split_of(same)).bpb == pytest.approx(fixed.bpb, rel=1e-6)


@pytest.mark.parametrize("stride", [0, 3, 4, LENGTH])
@pytest.mark.parametrize("limit", [1, LENGTH, 64, 65, 128, 0])
def test_any_stride_and_limit_scores_each_target_once(stride: int, limit: int):
    settings, scores = small_settings(eval_stride=stride), Scores()
    adapt(settings, split=split_of(TOKENS, limit), scoring=Scoring(CPU, record=scores))
    assert scores.positions == list(range(1, (limit or 299) + 1))


def test_a_chunk_is_learned_once_all_of_it_is_scored_and_the_last_one_never():
    settings, scores = small_settings(), Scores()
    seen: list[int] = []
    watched: list[Watched] = []

    class Late(Watched):
        def update(self, tokens: torch.Tensor, positions: torch.Tensor, lr_scale: float) -> None:
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            assert set(positions.flatten().tolist()) <= set(scores.positions)
            np.testing.assert_array_equal(tokens[:, 1:], TOKENS[positions])
            seen.extend(positions.flatten().tolist())
            super().update(tokens, positions, lr_scale)

    def watch(learner: Learner) -> Watched:
        watched.append(Late(learner))
        return watched[0]

    def record(positions: torch.Tensor, nats: torch.Tensor, is_new: torch.Tensor) -> None:
        assert torch.is_inference_mode_enabled()
        scores(positions, nats, is_new)

    adapt(settings, scoring=Scoring(CPU, record=record), watch=watch)
    assert seen == list(range(1, 257))
    rates = [rate for _, _, rate in watched[0].calls]
    assert rates == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])


def test_the_model_is_put_back_bit_for_bit():
    settings = small_settings()
    model = trained(settings)
    model.mtp_heads.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapt(settings, model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "mtp_heads")


def test_what_is_frozen_stays_bit_for_bit_and_all_else_learns():
    settings = small_settings(ttt_freeze_blocks=2, ttt_freeze=["tok_emb", "bigram_proj"])
    model = trained(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    layers = 3
    with learning_weights(model, "reference", settings, LENGTH, CPU) as learner:
        text = torch.from_numpy(TOKENS[: 4 * 17].astype(np.int32)).view(4, 17)
        learner.update(text, torch.arange(4 * 16).view(4, 16), 1.0)
        after = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in ("tok_emb", "bigram_proj", "mtp_heads"):
        assert torch.equal(after[name], before[name]), name
    for name in ("up_bank", "down_bank", "mix", "attn_scale", "mlp_scale", "q_gain"):
        assert torch.equal(after[name][:2], before[name][:2]), name
        assert not torch.equal(after[name][2:], before[name][2:]), name
    for name in ("qo_bank", "kv_bank"):
        changed = (after[name] != before[name]).flatten(1).any(1).tolist()
        assert changed == [False, False, True] * (len(changed) // layers), name
    assert not (after["skip_weight"][:1] != before["skip_weight"][:1]).any()
    assert not torch.equal(after["bigram_table"], before["bigram_table"])


def test_frozen_gradients_do_not_count_in_the_clip():
    """With all but a vector frozen, what is left moves by the clip's whole length."""
    names = [n for n, _ in trained(small_settings()).named_parameters() if n != "mtp_heads"]
    names.remove("smear_gate")
    settings = small_settings(ttt_freeze=names, ttt_grad_clip=1e-4, ttt_epochs=1, ttt_batch_seqs=4)
    model = trained(settings)
    before = model.smear_gate.detach().clone()
    with learning_weights(model, "reference", settings, LENGTH, CPU) as learner:
        text = torch.from_numpy(TOKENS[: 4 * 17].astype(np.int32)).view(4, 17)
        learner.update(text, torch.arange(4 * 16).view(4, 16), 1.0)
        moved = (model.smear_gate - before).norm().item()
    assert moved == pytest.approx(1e-4 * settings.ttt_lr, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ttt_freeze": ["tok_em"]}, "no parameter tok_em; there are: tok_emb"),
        ({"ttt_freeze_blocks": 4}, "has 3 layers"),
    ],
)
def test_what_cannot_be_frozen_is_an_input_error(changes: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        adapt(small_settings(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ttt_chunk_tokens": 50}, "no multiple of eval_seq_len 16"),
        ({"ttt_batch_seqs": 3}, "4 windows, which ttt_batch_seqs 3 does not divide"),
        ({"ttt_method": "lora", "ttt_lora_chunk": 17}, "exceeds eval_seq_len 16"),
        ({"ttt_tilt": 1.0}, "ttt_tilt needs ttt_method both"),
    ],
)
def test_chunks_without_whole_windows_are_refused(changes: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        small_settings(**changes)


def test_ranks_that_cannot_share_a_batch_are_refused():
    with (
        pytest.raises(InputError, match="batch of 2 windows cannot be shared by 3 ranks"),
        learning_weights(
            trained(small_settings()),
            "reference",
            small_settings(),
            LENGTH,
            World(0, 3, CPU.device),
        ),
    ):
        pass


METHODS = ("sgd", "lora", "both")


def adapt_as_rank(world: World) -> list[tuple[float, int]]:
    scores = [
        adapt(small_settings(ttt_method=method), scoring=Scoring(world)) for method in METHODS
    ]
    return [(score.nats, score.tokens) for score in scores]


def test_two_ranks_score_as_one():
    rank0, rank1 = on_ranks(2, adapt_as_rank)
    assert rank1 == rank0
    for method, (nats, tokens) in zip(METHODS, rank0, strict=True):
        alone = adapt(small_settings(ttt_method=method))
        assert nats == pytest.approx(alone.nats, abs=1e-5)
        assert tokens == alone.tokens
