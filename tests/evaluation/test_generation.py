"""Texts are drawn from the network's distribution, and the same seed draws the same text."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from errors import InputError
from evaluation.generation import Prompt, Sampling, draw, generate
from kernels.loss.reference import softcapped
from kernels.operand import dense
from model.gpt import GPT
from tests.small import small_model

VOCAB, LENGTH = 40, 16
# Of a chi-square distribution: exceeded once in 10,000 times.
RARE = {1: 15.1, 4: 23.5, 39: 79.0}


@pytest.fixture(scope="module")
def model() -> GPT:
    return small_model(0.3, vocab_size=VOCAB, bigram_vocab_size=32)


@torch.no_grad()
def next_logits(model: GPT, tokens: list[int]) -> Tensor:
    """By the whole forward pass, fp64."""
    hidden = model.hidden(torch.tensor([tokens], dtype=torch.int32))[:, -1]
    head = dense(model.output_head(), model.dtype)
    return softcapped(hidden, head, model.config.logit_softcap)[0].double()


def expected(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """Probabilities by the definition: all but the k largest logits are minus infinity."""
    if top_k:
        least = logits.sort(descending=True).values[top_k - 1]
        logits = logits.where(logits >= least, -torch.inf)
    return (logits / temperature).softmax(-1)


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    assert counts[probabilities == 0].sum() == 0
    some = probabilities > 0
    wanted = probabilities[some] * counts.sum()
    return ((counts[some] - wanted) ** 2 / wanted).sum().item()


@pytest.mark.parametrize(
    ("temperature", "top_k"), [(1.0, 0), (0.5, 0), (2.0, 0), (1.0, 5), (0.7, 2), (1.0, 1000)]
)
def test_tokens_are_drawn_in_proportion(model: GPT, temperature: float, top_k: int):
    logits = next_logits(model, [1, 7, 3])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = draw(logits.expand(20_000, -1), Sampling(temperature, top_k), uniforms)
    wanted = expected(logits, temperature, min(top_k, VOCAB))
    counts = torch.bincount(found, minlength=VOCAB)
    assert chi_square(counts, wanted) < RARE[int((wanted > 0).sum()) - 1]


def test_texts_of_many_seeds_have_the_networks_distribution(model: GPT):
    """The second token, after a first one that was drawn, too."""
    prompts = [Prompt([1, 7], seed) for seed in range(1500)]
    pairs = list(zip(*generate(model, prompts, Sampling(1.0, 2, 2, LENGTH)), strict=True))
    firsts = expected(next_logits(model, [1, 7]), 1.0, 2)
    joint = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for first in firsts.nonzero()[:, 0].tolist():
        joint[first] = firsts[first] * expected(next_logits(model, [1, 7, first]), 1.0, 2)
    counts = torch.zeros(VOCAB, VOCAB)
    for first, second in pairs:
        counts[first, second] += 1
    assert chi_square(counts, joint) < 21.2  # three degrees of freedom


@pytest.mark.parametrize("sampling", [Sampling(0.0, 0), Sampling(0.0, 7), Sampling(3.0, 1)])
def test_temperature_0_and_k_1_are_the_most_likely_token(sampling: Sampling):
    logits = torch.randn((200, VOCAB), generator=torch.Generator().manual_seed(0))
    uniforms = torch.linspace(0, 1 - 2**-53, 200, dtype=torch.float64)
    assert torch.equal(draw(logits, sampling, uniforms), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-300, 1e-10, 1e300])
def test_extreme_temperatures_draw_tokens_that_exist(temperature: float):
    logits = torch.tensor([[0.0, 30.0, -30.0, 29.0]]).repeat(3, 1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    found = draw(logits, Sampling(temperature, 0), uniforms)
    assert found.tolist() == ([1, 1, 1] if temperature < 1 else [1, 0, 2])


def greedy(model: GPT, tokens: list[int], count: int) -> list[int]:
    """Without a cache; a full context goes on with its second half."""
    text, since = list(tokens), 0
    for _ in range(count):
        if len(text) - since > LENGTH:
            since = len(text) - 1 - LENGTH // 2
        text.append(int(next_logits(model, text[since:]).argmax()))
    return text[len(tokens) :]


def test_a_full_context_goes_on_with_its_second_half(model: GPT):
    prompts = [[1], [1, 5, 9, 2, 30, 8], [1] + [4, 9] * 7]
    sampling = Sampling(0.0, 0, 2 * LENGTH + 5, LENGTH)
    found = zip(*generate(model, [Prompt(p, 0) for p in prompts], sampling), strict=True)
    for prompt, text in zip(prompts, found, strict=True):
        assert list(text) == greedy(model, prompt, len(text))


def test_of_a_prompt_that_is_too_long_the_end_is_read(model: GPT):
    prompt = [1, *(n % 30 + 2 for n in range(50))]
    sampling = Sampling(0.0, 0, 3, LENGTH)
    (found,) = zip(*generate(model, [Prompt(prompt, 0)], sampling), strict=True)
    assert list(found) == greedy(model, prompt[-LENGTH // 2 :], 3)


def test_a_text_depends_on_its_prompt_and_seed_only(model: GPT):
    sampling = Sampling(1.0, 0, 20, LENGTH)
    prompts = [Prompt([1, 7], 5), Prompt([1, 7], 6), Prompt([1, 2, 3], 5)]
    torch.manual_seed(0)
    together = list(zip(*generate(model, prompts, sampling), strict=True))
    untouched = torch.rand(())
    for prompt, text in zip(prompts, together, strict=True):
        assert list(zip(*generate(model, [prompt], sampling), strict=True)) == [text]
    assert len(set(together)) == 3
    torch.manual_seed(0)
    assert torch.rand(()) == untouched


def test_tokens_come_before_the_text_is_complete(model: GPT):
    endless = generate(model, [Prompt([1], 0)], Sampling(1.0, 0, 10**9, LENGTH))
    assert len(list(islice(endless, 3))) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((-0.1,), "temperature -0.1: give 0"),
        ((float("nan"),), "temperature nan"),
        ((float("inf"),), "temperature inf"),
        ((1.0, -1), "top-k -1"),
        ((1.0, 0, 0), "max-tokens 0"),
        ((1.0, 0, 5, 1), "context of 1 tokens"),
    ],
)
def test_impossible_values_are_refused(values: tuple, words: str):
    with pytest.raises(InputError, match=words):
        Sampling(*values)
