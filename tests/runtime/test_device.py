"""Choices of a device: "auto" picks what it and the network can have; a refusal is one line."""

import subprocess
import sys

import pytest
import torch

from errors import InputError
from kernels.common.device import is_hopper
from runtime.device import OTHERS_GIB, choose, device_type, memory_of_others
from tests.training.small import small_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# Head dim 16, rotary dims and widths that the kernels take.
FITS = {"model_dim": 64, "rope_dims": 8, "mlp_mult": 3.0}


@pytest.fixture
def capability(monkeypatch):
    """``capability(9)``: the GPU there is, or seems to be."""

    def pretend(major: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
        is_hopper.cache_clear()

    pretend(9)
    yield pretend
    is_hopper.cache_clear()


def chosen(device: torch.device, **changes: object) -> tuple[str, str]:
    found = choose(small_settings(**changes), device)
    return found.backend, found.attention


def test_auto_takes_the_kernels_on_a_hopper_gpu(capability):
    assert chosen(GPU, **FITS) == ("kernels", "own")
    assert choose(small_settings(**FITS), GPU).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "major"),
    [(FITS | {"rope_dims": 12}, 9), (FITS | {"dtype": "float32"}, 9), (FITS, 8), (FITS, 10)],
    ids=["network", "dtype", "Ampere", "Blackwell"],
)
def test_auto_is_compiled_where_the_kernels_do_not_fit(capability, changes, major):
    capability(major)
    assert chosen(GPU, **changes) == ("compiled", "cudnn")


def test_auto_is_plain_pytorch_on_a_cpu():
    assert chosen(CPU, **FITS) == ("reference", "sdpa")
    assert choose(small_settings(), CPU).dtype == torch.float32


def test_fp8_is_for_backends_that_have_it(capability):
    settings = small_settings(**FITS)
    assert choose(settings, GPU, fp8=True).backend == "kernels"
    assert choose(settings, CPU, fp8=True).backend == "reference"
    odd = FITS | {"mlp_mult": 3.125}
    assert choose(small_settings(**odd), GPU).backend == "kernels"
    assert choose(small_settings(**odd), GPU, fp8=True).backend == "compiled"
    with pytest.raises(InputError, match="multiples of 16 in fp8"):
        choose(small_settings(backend="kernels", **odd), GPU, fp8=True)


@pytest.mark.parametrize(
    "windows",
    [
        {"window": 4},
        {"near_window": 4, "near_layers": [0]},
        {"stages": "[{until=1.0, window=4}]"},
    ],
)
def test_flash_takes_no_window(capability, windows):
    with pytest.raises(InputError, match="flash has no window"):
        choose(small_settings(attention_backend="flash", **FITS, **windows), GPU)


def test_attention_is_chosen_by_itself(capability):
    assert chosen(GPU, backend="kernels", attention_backend="cudnn", **FITS)[1] == "cudnn"
    assert chosen(GPU, backend="kernels", attention_backend="kernels", **FITS)[1] == "own"
    assert chosen(GPU, backend="reference", attention_backend="sdpa")[1] == "sdpa"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backend": "kernels", **FITS}, "--backend kernels needs a CUDA GPU"),
        ({"attention_backend": "kernels"}, "--attention-backend kernels needs --backend kernels"),
        ({"attention_backend": "cudnn"}, "cudnn needs a CUDA GPU"),
        (
            {"attention_backend": "flash"},
            "flash: not installed: FlashAttention-4, FlashAttention-3",
        ),
    ],
)
def test_what_a_cpu_cannot_have_is_one_line(monkeypatch, changes, words):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for package in ("flash_attn.cute", "flash_attn_interface", "flash_attn"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=words) as refused:
        choose(small_settings(**changes), CPU)
    assert "\n" not in str(refused.value)


def test_device_is_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_type("auto") == "cpu"
    with pytest.raises(InputError, match="torch sees no GPU"):
        device_type("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_type(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


HOLD = """
import sys, torch
held = torch.zeros(6 << 30, dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.gpu
def test_memory_of_another_process_is_seen_and_ones_own_is_not():
    device = torch.device("cuda")
    if memory_of_others(device) >= OTHERS_GIB:
        pytest.skip("another process uses this GPU")
    own = torch.zeros(6 << 30, dtype=torch.uint8, device=device)
    assert own.numel() and memory_of_others(device) < OTHERS_GIB
    command, pipe = [sys.executable, "-c", HOLD], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        assert memory_of_others(device) > 6
        other.communicate()


def test_a_cpu_has_no_memory_of_others():
    assert memory_of_others(torch.device("cpu")) == 0
