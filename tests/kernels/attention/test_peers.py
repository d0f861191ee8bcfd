"""Other makers' attention takes the place of the softmax alone, and none of them is needed."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import operations
from kernels.attention import reference
from kernels.attention.peers import attention_by
from tests.kernels.tools.compare import check, random_tensors

EPS = 1e-6
ROPE = reference.rope_table(9, 8, 100.0, torch.device("cpu"))
SHAPES = {"q": (2, 9, 4, 16), "k": (2, 9, 2, 16), "v": (2, 9, 2, 16), "gain": (4,)}


def plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Causal GQA by its formula; FlashAttention's is causal only when told so."""
    assert causal
    group = q.size(2) // k.size(2)
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.size(-1) ** 0.5
    hidden = torch.ones(q.size(1), q.size(1)).triu(1).bool()
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def install(monkeypatch: pytest.MonkeyPatch, package: str, function: object) -> None:
    module = ModuleType(package)
    module.flash_attn_func = function  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, package, module)


@pytest.fixture
def no_flash(monkeypatch):
    for package in ("flash_attn_interface", "flash_attn"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("name", ["sdpa", "cudnn"])
def test_is_causal_grouped_query_attention(name):
    inputs = random_tensors(3, **{part: SHAPES[part] for part in "qkv"})
    attend = attention_by(name)
    check(
        lambda q, k, v: [attend(q, k, v, None)],
        lambda **given: [plain(**given, causal=True)],
        inputs,
    )


@pytest.mark.parametrize("backend", ["reference", "kernels"])
@pytest.mark.parametrize("name", ["sdpa", "cudnn", "flash"])
def test_surroundings_are_the_references(name, backend, monkeypatch):
    install(monkeypatch, "flash_attn", plain)
    install(
        monkeypatch,
        "flash_attn_interface",
        lambda *qkv, causal: (plain(*qkv, causal=causal), "log-sums"),
    )
    swapped = operations(backend, name)
    options: dict[str, Any] = {"rope": ROPE, "eps": EPS, "xsa": True}
    check(
        lambda **inputs: [swapped.attention(**inputs, **options)],
        lambda **inputs: [reference.attention(**inputs, **options)],
        random_tensors(4, **SHAPES),
    )
    weights = random_tensors(5, x=(2, 9, 12), weight=(128, 12), gain=(4,))
    options |= {"heads": 4, "kv_heads": 2}
    check(
        lambda **inputs: [swapped.self_attention(**inputs, **options)],
        lambda **inputs: [reference.self_attention(**inputs, **options)],
        weights,
    )
    own = operations(backend)
    assert own.attention is not swapped.attention
    assert all(getattr(swapped, other) is getattr(own, other) for other in ("mlp", "norm", "loss"))


def test_documents_reach_the_attention_and_flash_refuses_them(monkeypatch):
    inputs = {name: x.float() for name, x in random_tensors(5, **SHAPES).items()}
    options: dict[str, Any] = {"rope": ROPE, "eps": EPS}
    tokens = torch.tensor([[1, 5, 5, 1, 5, 5, 5, 5, 5]] * 2)
    options["documents"] = reference.document_bounds(tokens, 1)
    expected = reference.attention(**inputs, **options)
    found = operations("reference", "cudnn").attention(**inputs, **options)
    torch.testing.assert_close(found, expected)
    install(monkeypatch, "flash_attn_interface", plain)
    with pytest.raises(ValueError, match="no mask of documents"):
        operations("reference", "flash").attention(**inputs, **options)


def test_flash_3_goes_before_flash_2(monkeypatch, no_flash):
    install(monkeypatch, "flash_attn", lambda *_, causal: "2")
    nothing = torch.empty(0)
    assert attention_by("flash")(nothing, nothing, nothing, None) == "2"
    install(monkeypatch, "flash_attn_interface", lambda *_, causal: ("3", "log-sums"))
    assert attention_by("flash")(nothing, nothing, nothing, None) == "3"


@pytest.mark.usefixtures("no_flash")
def test_flash_that_is_not_installed_is_said_in_one_line():
    with pytest.raises(ModuleNotFoundError, match="needs flash_attn_interface") as refused:
        operations("reference", "flash")
    assert "\n" not in str(refused.value)


def test_unknown_attention_is_named():
    with pytest.raises(ValueError, match="'magic' is none of sdpa, cudnn, flash"):
        operations("reference", "magic")


@pytest.mark.parametrize("name", ["sdpa", "cudnn"])
def test_torch_compile_takes_it_in_one_graph(name):
    ops = operations("reference", name)
    inputs = {part: x.float() for part, x in random_tensors(6, **SHAPES).items()}

    def run(**inputs: Any) -> Tensor:
        return ops.attention(**inputs, rope=ROPE, eps=EPS)

    compiled = torch.compile(run, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs), run(**inputs))


@pytest.mark.gpu
@pytest.mark.alone
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_cudnn_is_cudnn_on_a_gpu(compiled):
    attend = attention_by("cudnn")
    if compiled:
        attend = torch.compile(attend, fullgraph=True, dynamic=False)
    q, k, v = (torch.randn(1, 128, heads, 64, device="cuda").bfloat16() for heads in (8, 4, 4))
    attend(q, k, v, None)
    with torch.profiler.profile() as trace:
        attend(q, k, v, None)
    assert any("cudnn_attention" in event.name for event in trace.events() or ())
