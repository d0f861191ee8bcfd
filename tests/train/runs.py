"""Whole runs, as a user starts them: real processes, real files, a small network."""

import subprocess
from pathlib import Path

import torch

from files import PROJECT
from runtime import checkpoint
from runtime.run_folder import read_log
from tests import warm
from tests.small import clean_environment, free_port

# Ranks add in another order. A last digit is 1e-7; where it takes a weight over the middle of two
# codes of QAT's grid, which it does in some steps, the loss of this small network moves by 3e-5.
ANOTHER_ORDER = 1e-4
NETWORK = """
vocab_size = 300
num_layers = 3
model_dim = 32
num_heads = 4
num_kv_heads = 2
rope_dims = 4
xsa_last_n = 1
ve_layers = [2]
ve_dim = 8
bigram_vocab_size = 64
bigram_dim = 8
train_seq_len = 32
train_batch_tokens = 384
micro_batch_tokens = 384
eval_seq_len = 32
eval_stride = 8
val_batch_size = 4096
wallclock = 0.0
iterations = 20
warmup_steps = 1
warmdown_iters = 10
muon_momentum_warmup_steps = 10
ema_decay = 0.9
train_log_every = 1
checkpoint_minutes = 0.0
calibration_tokens = 1536
device = "cpu"
"""


def train(*arguments: object, ranks: int = 1, **environment: str) -> subprocess.CompletedProcess:
    """Train to the end; several ranks by torchrun."""
    return warm.run(*command(*arguments, ranks=ranks), environment=surroundings(**environment))


def meet(*arguments: object, ranks: int) -> subprocess.CompletedProcess:
    """Train as ``ranks`` processes that are told what torchrun tells them: no import is waited for.

    The exit code is the first that is not 0.
    """
    port = free_port()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    size = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    program = [PROJECT / "train.py", *arguments]
    started = [
        warm.start(*program, environment=surroundings(**where, **size, **number))
        for number in numbers
    ]
    codes = [each.wait() for each in started]
    printed = [
        "".join(streams) for streams in zip(*((s.stdout, s.stderr) for s in started), strict=True)
    ]
    return subprocess.CompletedProcess(program, next(filter(None, codes), 0), *printed)


def begin(*arguments: object, ranks: int = 1) -> warm.Started:
    """Start training."""
    return warm.start(*command(*arguments, ranks=ranks), environment=surroundings())


def surroundings(**extra: str) -> dict[str, str]:
    """Return a run's environment: clean, and its picture is an empty file unless told otherwise."""
    return clean_environment(**{"PICTURES": "empty", **extra})


def command(*arguments: object, ranks: int) -> list[object]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*(launcher if ranks > 1 else []), PROJECT / "train.py", *arguments]


def losses(run: Path) -> list[float]:
    steps = [event for event in read_log(run / "log.jsonl") if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 21))
    return [event["loss"] for event in steps]


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step_000020"
    return checkpoint.load(newest, "cpu")[0]
