"""The whole model, the optimizer and the training step, in the tree that is first on the path."""

import importlib
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timed_kernels import DEVICE, DTYPE, GPU, TINY, Call, Sizes, find, random_tokens
from torch import Tensor

from model.config import Architecture
from model.gpt import GPT

SHARD_TOKENS = 2**22
SETTLED = 8  # steps after which all of a step is replayed


def changes_of(s: Sizes) -> dict[str, Any]:
    """Return the settings in which a tiny network is another one than preset ``seed``'s."""
    if s is not TINY:
        return {}
    network = {"num_layers": s.layers, "model_dim": s.width, "num_heads": s.heads, "xsa_last_n": 1}
    tables = {"bigram_vocab_size": s.rows, "bigram_dim": s.table, "ve_dim": s.table}
    rest = {"num_kv_heads": s.kv_heads, "rope_dims": s.rope_dims, "ve_layers": [1]}
    return network | tables | rest | {"vocab_size": s.vocabulary}


def network(ops: Any, s: Sizes) -> Call:
    """Return a call of the whole model's forward and backward."""
    config = Architecture.model_validate(changes_of(s))
    model = GPT(config, ops, dtype=DTYPE, max_seq_len=s.time, seed=0).to(DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():  # some of which begin at zero
            parameter += 0.02 * torch.randn_like(parameter)
    tokens, weight = random_tokens(s, extra=1), torch.tensor(0.1, device=DEVICE)

    def call() -> Sequence[Tensor]:
        loss, _ = model(tokens[:, :-1], tokens[:, 1:], mtp_weight=weight)
        loss.backward()
        found = [loss.detach()]
        for parameter in model.parameters():
            if parameter.grad is not None:
                found.append(parameter.grad)
            parameter.grad = None
        return found

    return call


def optimizer() -> Call:
    """Return a call of the fused optimizer's step; its results are the weights."""
    fused = find("bench.harness.optimizers:Fused", "bench.stepping:Fused")(DTYPE)

    def call() -> Sequence[Tensor]:
        fused()
        return list(fused.state.values())

    return call


class Step:
    """Preset sprint's whole step, with data and optimizer, after its warm-up.

    Its result is a copy of the loss, because a replay writes its numbers where the last one did.
    """

    def __init__(self, s: Sizes) -> None:
        load_settings = find("settings.load:load_settings", "settings:load_settings")
        world = find("runtime.ranks:World", "training.world:World").single(DEVICE)
        trainer = find("training.trainer:Trainer")
        settings = load_settings(["--preset", "sprint", "--wallclock", "0"], {})
        if s is TINY:
            tokens = dict.fromkeys(("train_seq_len", "eval_seq_len"), s.time)
            tokens |= dict.fromkeys(
                ("train_batch_tokens", "micro_batch_tokens"), s.windows * s.time
            )
            settings = settings.model_copy(update=changes_of(s) | tokens | {"device": "cpu"})
        self._folder = tempfile.TemporaryDirectory()
        stream = random_stream(Path(self._folder.name), settings.vocab_size)
        given = [settings, stream, world]
        if "backends" in inspect.signature(trainer).parameters:
            given.append(find("runtime.device:choose")(settings, DEVICE))
        self._trainer = trainer(*given)
        self._moment = find("training.schedule:Moment")(
            progress=0.0, lr_scale=1.0, momentum=0.95, qat=False
        )
        self._step = 0
        if GPU:
            warm_up = find("training.warm_up:warm_up", "training.trainer:Trainer.warm_up")
            warm_up(self._trainer, 3)
            for _ in range(SETTLED):
                self()

    def __call__(self) -> Sequence[Tensor]:
        self._step += 1
        return [self._trainer.step(self._step - 1, self._moment)[:1].clone()]

    def close(self) -> None:
        """End the loader's thread; remove the tokens."""
        self._trainer.close()
        self._folder.cleanup()


def random_stream(folder: Path, vocabulary: int) -> Any:
    """Return a stream of random tokens, written to the folder."""
    shards = importlib.import_module("data.shards")
    draw = np.random.default_rng(0)
    tokens = draw.integers(vocabulary, size=SHARD_TOKENS, dtype=np.uint16)
    shards.write_shard(folder / shards.shard_name("train", 0), tokens)
    return shards.TokenStream.open(folder, "train", vocabulary)
