"""The cached forward gives the logits of the whole forward, for every part of a network."""

import pytest
import torch
from torch import Tensor

from kernels.loss.reference import softcapped
from kernels.operand import dense
from model.config import Architecture
from model.decoding import Decoder
from model.gpt import GPT
from settings.load import merge
from settings.variants import reachable
from tests.kernels.tools.compare import relative_error
from tests.model.small import MAX_LENGTH, PARTS, architecture, perturbed

STARTS, STEPS = (1, 2, 9), 12
FP32 = 1e-5
SIZES = {"vocab_size": 50, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2, "rope_dims": 4}


def of_preset(name: str) -> Architecture:
    """The preset's network with its layers and parts, in a small width."""
    settings = merge({"preset": name}, {})
    assert reachable(settings)
    return Architecture.model_validate(settings.architecture().model_dump() | SIZES)


def texts(vocabulary: int, bos: int, seed: int = 5) -> Tensor:
    """(3, T) tokens: BOS first, elsewhere, twice in a row, and where a text is continued."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(0, vocabulary, (3, max(STARTS) + STEPS), generator=generator)
    found[0, 0] = found[1, 4] = found[2, 3] = found[2, 4] = found[2, 14] = found[0, 7] = bos
    return found.to(torch.int32)


@torch.no_grad()
def whole(model: GPT, tokens: Tensor) -> Tensor:
    """Logits of every position by one forward pass."""
    head = dense(model.output_head(), model.dtype)
    return softcapped(model.hidden(tokens), head, model.config.logit_softcap)


def check(model: GPT, tolerance: float = FP32) -> None:
    tokens = texts(model.config.vocab_size, model.config.bos_id).to(model.tok_emb.device)
    expected = [whole(model, text[None])[0] for text in tokens]
    decoder = Decoder(model, len(STARTS), MAX_LENGTH)
    found = decoder.read({n: tokens[n, :count].tolist() for n, count in enumerate(STARTS)})
    for step in range(STEPS):
        assert decoder.lengths == [count + step for count in STARTS]
        for n, count in enumerate(STARTS):
            assert relative_error(found[n], expected[n][count + step - 1]) < tolerance
        found = decoder.step(torch.stack([tokens[n, c + step] for n, c in enumerate(STARTS)]))


@pytest.mark.parametrize("part", PARTS)
def test_logits_token_by_token_are_those_of_the_whole(part: str):
    check(perturbed(architecture(part)))


@pytest.mark.parametrize("preset", ["seed", "sprint", "tiny", "frontier"])
def test_networks_of_presets(preset: str):
    check(perturbed(of_preset(preset)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str
)
def test_on_a_gpu(dtype: torch.dtype, tolerance: float):
    for part in ("everything", "loop and lanes", "loop, documents, window and gate"):
        check(perturbed(architecture(part), dtype=dtype).cuda(), tolerance)


def test_a_text_that_begins_anew_leaves_the_others_as_they_are():
    model = perturbed(architecture("loop, documents, window and gate"))
    tokens = texts(50, 1)
    decoder = Decoder(model, 2, 12)
    decoder.read({0: tokens[0, :3].tolist(), 1: tokens[1, :8].tolist()})
    decoder.step(tokens[:2, 8])
    again = decoder.read({1: tokens[2, :2].tolist()})
    assert relative_error(again, whole(model, tokens[2:, :2])[:, -1]) < FP32
    assert decoder.lengths == [4, 2]
    found = decoder.step(tokens[:2, 9])
    first = torch.cat((tokens[0, :3], tokens[0, 8:10]))
    second = torch.cat((tokens[2, :2], tokens[1, 9:10]))
    assert relative_error(found[0], whole(model, first[None])[0, -1]) < FP32
    assert relative_error(found[1], whole(model, second[None])[0, -1]) < FP32


def test_the_model_itself_computes_as_before():
    model = perturbed(architecture())
    ops, before = model.ops, whole(model, texts(50, 1))
    check(model)
    assert model.ops is ops
    assert torch.equal(whole(model, texts(50, 1)), before)


@pytest.mark.parametrize("text", [[], [1] * 5])
def test_texts_that_do_not_fit_are_refused(text: list[int]):
    decoder = Decoder(perturbed(architecture()), 1, 4)
    with pytest.raises(ValueError, match="give 1 to 4"):
        decoder.read({0: text})


def test_a_text_that_is_full_or_was_not_read_has_no_next_token():
    decoder = Decoder(perturbed(architecture()), 2, 4)
    decoder.read({0: [1]})
    with pytest.raises(ValueError, match="read all"):
        decoder.step(torch.tensor([1, 1]))
    decoder.read({1: [1, 2, 3, 4]})
    with pytest.raises(ValueError, match="at most 4"):
        decoder.step(torch.tensor([1, 1]))
