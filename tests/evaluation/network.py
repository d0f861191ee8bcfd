"""A small trained network, text that it knows half of, and settings to score it with."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.tokenizer import ByteTable
from evaluation.audit.observing import TokenArray
from evaluation.score import Split
from evaluation.ttt.learner import Learner
from kernels import operations
from model.gpt import GPT
from runtime.ranks import World
from settings import Settings
from tests.small import NETWORK, TABLES

VOCAB, BOS, LENGTH = 40, 1, 16
CPU = World.single(torch.device("cpu"))
ONES = np.ones(VOCAB, np.int16)
BYTES = ByteTable(ONES, ONES < 0, ONES < 0)


def small_settings(**changes: object) -> Settings:
    """Windows of 16, chunks of 4 windows in batches of 2, documents in chunks of 8."""
    values = {
        "vocab_size": VOCAB,
        **NETWORK,
        **TABLES,
        "train_seq_len": LENGTH,
        "train_batch_tokens": 2 * LENGTH,
        "eval_seq_len": LENGTH,
        "eval_stride": 4,
        "val_batch_size": 5 * LENGTH,
        "ttt_enabled": True,
        "ttt_chunk_tokens": 4 * LENGTH,
        "ttt_batch_seqs": 2,
        "ttt_lr": 0.05,
        "ttt_lora_rank": 3,
        "ttt_lora_alpha": 3.0,
        "ttt_lora_chunk": 8,
        "ttt_lora_chunk_most": 8,
        "ttt_lora_documents": 4,
    }
    return Settings(**(values | changes))  # pyright: ignore[reportArgumentType]


# Windows of 256; all parts of preset frontier that the kernels meet in test-time training.
FRONTIER_PARTS = {
    "ttt_lora_alpha": 6.0,
    "ttt_lora_chunk": 32,
    "ttt_lora_chunk_most": 128,
    "ttt_lora_documents": 48,
    "ttt_chunk_tokens": 16 * 256,
    "ttt_batch_seqs": 4,
    "train_seq_len": 256,
    "eval_seq_len": 256,
    "eval_stride": 256,
    "document_mask": True,
    "window": 256,
    "model_dim": 256,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "rope_dims": 32,
    "gate_window": 12,
    "smear_window": 12,
    "skip_gates": True,
    "parallel_from": 3,
    "xsa_last_n": 4,
    "ve_enabled": False,
    "bigram_vocab_size": 0,
    "loop_layers": [1],
    "num_loops": 1,
}


def settings_of_frontier_parts(**changes: object) -> Settings:
    return small_settings(**FRONTIER_PARTS | changes)


def network_in_bf16(settings: Settings, device: torch.device) -> GPT:
    """On a GPU, by the kernels; all weights far from their beginnings."""
    ops = operations("kernels")
    model = GPT(settings.architecture(), ops, dtype=torch.bfloat16, max_seq_len=256, seed=1)
    model = model.to(device)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():  # of which some begin as zeros
            weight += 0.05 * torch.randn(weight.shape, generator=generator, device=device)
    return model


def tokens_of_documents(count: int, seed: int, longest: int = 60) -> np.ndarray:
    """(count,) uint16: documents, each a short pattern of its own over and over, as text that
    test-time training has something to learn of."""
    draw = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < count:
        pattern = draw.integers(2, VOCAB, draw.integers(5, 9))
        parts += [[BOS], np.resize(pattern, draw.integers(1, longest))]
    return np.concatenate(parts)[:count].astype(np.uint16)


def split_of(tokens: np.ndarray, max_tokens: int = 0) -> Split:
    """A split in memory, of one byte a token; a read outside of it raises."""
    return Split(TokenArray(tokens), BYTES, max_tokens)


def fresh(settings: Settings, backend: str = "reference") -> GPT:
    ops = operations(backend)
    return GPT(settings.architecture(), ops, dtype=torch.float32, max_seq_len=LENGTH, seed=1)


@cache
def trained_weights() -> dict[str, Tensor]:
    """Weights after 60 steps of Adam on patterns."""
    settings = small_settings()
    model = fresh(settings)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    text = torch.from_numpy(tokens_of_documents(60 * 8 * (LENGTH + 1), seed=5).astype(np.int32))
    for batch in text.view(60, 8, LENGTH + 1):
        optimizer.zero_grad()
        model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())[0].backward()
        optimizer.step()
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def trained(settings: Settings, backend: str = "reference") -> GPT:
    model = fresh(settings, backend)
    model.load_state_dict(trained_weights())
    return model


class Scores:
    """Records each target's nats, in the order in which they are scored."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.nats: list[float] = []

    def __call__(self, positions: Tensor, nats: Tensor, is_new: Tensor) -> None:
        self.positions += positions[is_new].tolist()
        self.nats += nats[is_new].tolist()

    def by_position(self) -> np.ndarray:
        assert sorted(self.positions) == list(range(1, len(self.positions) + 1))
        return np.array(self.nats)[np.argsort(self.positions)]


class AskedAgain:
    """A record of scores that asks adapters for each chunk's states again, as an audit does.

    The second half of a chunk is zeros then.

    Attributes:
        adapters: of the run.
        off: of each chunk, the largest difference of its first half's nats by these states.
    """

    def __init__(self, tokens: np.ndarray, device: torch.device) -> None:
        self.text = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self.adapters: Any = None
        self.off: list[float] = []

    def watch(self, adapters: Any) -> Any:
        self.adapters = adapters
        return adapters

    def __call__(self, positions: Tensor, nats: Tensor, is_new: Tensor) -> None:
        reader, inside = self.adapters.reader, positions.clamp_max(len(self.text) - 1)
        earlier = torch.arange(-1 - reader.earlier, -1, device=positions.device)
        given = self.text[torch.cat((positions[:, :1] + earlier, inside - 1), dim=1)]
        half = positions.size(1) // 2
        given[:, -half:] = 0
        states = self.adapters.states(given)
        again = reader.nats(states.contiguous(), self.text[inside])[1]
        self.off.append(float((again - nats).where(is_new, 0)[:, :half].abs().max()))


class Watched:
    """A learner whose calls are kept."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.score = learner, learner.score
        self.calls: list[tuple[Tensor, Tensor, float]] = []

    def update(self, tokens: Tensor, positions: Tensor, lr_scale: float) -> None:
        self.learner.update(tokens, positions, lr_scale)
        self.calls.append((tokens.clone(), positions.clone(), lr_scale))

    def tensors(self) -> list[Tensor]:
        return self.learner.tensors()
