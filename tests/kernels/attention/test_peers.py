"""Other makers' attention takes the place of the softmax alone, and none of them is needed."""

import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import operations
from kernels.attention import reference
from kernels.attention.flash import cumulative_lengths
from kernels.attention.peers import attention_by
from kernels.peers import Peer, of
from tests.kernels.stand_ins import FLASH_2, FLASH_3, FLASH_4, install, plain, remove
from tests.kernels.tools.compare import check, random_tensors

EPS = 1e-6
ROPE = reference.rope_table(9, 8, 100.0, torch.device("cpu"))
SHAPES = {"q": (2, 9, 4, 16), "k": (2, 9, 2, 16), "v": (2, 9, 2, 16), "gain": (4,)}


@pytest.fixture
def no_flash(monkeypatch):
    remove(monkeypatch)


@pytest.mark.parametrize("name", ["sdpa", "cudnn"])
def test_is_causal_grouped_query_attention(name):
    inputs = random_tensors(3, **{part: SHAPES[part] for part in "qkv"})
    attend = attention_by(name)
    check(
        lambda q, k, v: [attend(q, k, v, None)],
        lambda **given: [plain(**given)],
        inputs,
    )


@pytest.mark.parametrize("backend", ["reference", "kernels"])
@pytest.mark.parametrize("name", ["sdpa", "cudnn", "flash"])
def test_surroundings_are_the_references(name, backend, monkeypatch):
    remove(monkeypatch)
    install(monkeypatch, "flash_attn.cute", FLASH_4)
    swapped = operations(backend, name)
    options: dict[str, Any] = {"rope": ROPE, "eps": EPS, "xsa": True}
    check(
        lambda **inputs: [swapped.attention(**inputs, **options)],
        lambda **inputs: [reference.attention(**inputs, **options)],
        random_tensors(4, **SHAPES),
    )
    weights = random_tensors(5, x=(2, 9, 12), weight=(128, 12), gain=(4,))
    options |= {"kv_heads": 2}
    check(
        lambda **inputs: [swapped.self_attention(**inputs, **options)],
        lambda **inputs: [reference.self_attention(**inputs, **options)],
        weights,
    )
    own = operations(backend)
    assert own.attention is not swapped.attention
    assert all(getattr(swapped, other) is getattr(own, other) for other in ("mlp", "norm", "loss"))


@pytest.mark.parametrize(
    ("name", "package", "functions"),
    [
        ("cudnn", None, {}),
        ("flash", "flash_attn", FLASH_2),
        ("flash", "flash_attn_interface", FLASH_3),
        ("flash", "flash_attn.cute", FLASH_4),
    ],
)
def test_attention_stays_inside_documents(monkeypatch, no_flash, name, package, functions):
    if package:
        install(monkeypatch, package, functions)
    options: dict[str, Any] = {"rope": ROPE, "eps": EPS}
    tokens = torch.tensor([[1, 5, 5, 1, 5, 5, 5, 5, 1], [5, 5, 1, 1, 5, 5, 5, 5, 5]])
    options["documents"] = reference.document_bounds(tokens, 1)
    attention = operations("reference", name).attention
    check(
        lambda **inputs: [attention(**inputs, **options)],
        lambda **inputs: [reference.attention(**inputs, **options)],
        random_tensors(5, **SHAPES),
    )


def test_the_newest_flash_attention_is_taken(monkeypatch, no_flash):
    def tells(functions, version):
        return {**functions, "flash_attn_func": lambda *_, causal: torch.full((1, 1), version)}

    def taken(compiled=False):
        nothing = torch.zeros(1, 1)
        return int(attention_by("flash", compiled)(nothing, nothing, nothing, None))

    install(monkeypatch, "flash_attn", tells(FLASH_2, 2))
    assert taken() == 2
    install(monkeypatch, "flash_attn_interface", tells(FLASH_3, 3))
    assert taken() == 3
    install(monkeypatch, "flash_attn.cute", tells(FLASH_4, 4))
    assert taken() == 4
    assert taken(compiled=True) == 3


def test_a_bare_folder_is_not_flash_attention_2(monkeypatch, no_flash):
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    with pytest.raises(ModuleNotFoundError):
        attention_by("flash")


@pytest.mark.usefixtures("no_flash")
def test_flash_that_is_not_installed_is_said_in_one_line():
    with pytest.raises(ModuleNotFoundError, match="pip install flash-attn-4 flash-attn") as refused:
        operations("reference", "flash")
    assert "\n" not in str(refused.value)
    with pytest.raises(ModuleNotFoundError, match="pip install flash-attn;"):
        operations("compiled", "flash")


def bounds(*starts: list[int], length: int) -> torch.Tensor:
    tokens = torch.full((len(starts), length), 5)
    for row, begins in zip(tokens, starts, strict=True):
        row[begins] = 1
    return reference.document_bounds(tokens, 1)


def test_cumulative_lengths_end_each_document():
    found = cumulative_lengths(bounds([0, 4], [1], [], length=6))
    assert found.dtype == torch.int32
    # A window begins a document whether or not its first token does.
    assert found.tolist() == [0, 4, 6, 7, 12] + [18] * 14


def test_cumulative_lengths_have_room_for_a_document_a_token_in_small_batches():
    found = cumulative_lengths(bounds(list(range(6)), length=6))
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_cumulative_lengths_are_few_and_refuse_more_documents():
    most = 1024 + 4096 // 128
    full = cumulative_lengths(bounds(list(range(most)), length=4096))
    assert full.tolist() == [*range(most), 4096]
    with pytest.raises(RuntimeError, match=f"at most {most} documents"):
        cumulative_lengths(bounds(list(range(most + 1)), length=4096))


def test_cumulative_lengths_refuse_a_sliding_window():
    with pytest.raises(RuntimeError, match="no sliding window"):
        cumulative_lengths(reference.window_bounds(torch.zeros(1, 9), 4))


class OnTheDevice(TorchDispatchMode):
    """Refuses operations whose result the host or a shape depends on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(word in str(func) for word in ("local_scalar", "nonzero", "masked_select"))
        assert not str(func).startswith("aten.index.")
        return func(*args, **(kwargs or {}))


def test_cumulative_lengths_need_no_value_on_the_host():
    given = bounds([0, 4], [1], length=6)
    with OnTheDevice():
        cumulative_lengths(given)
    with OnTheDevice(), pytest.raises(AssertionError):
        given.sum().item()


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


def test_torch_compile_makes_cumulative_lengths_in_one_graph():
    compiled = torch.compile(cumulative_lengths, fullgraph=True, dynamic=False, backend="eager")
    given = bounds([0, 4], [1], length=6)
    assert compiled(given).equal(cumulative_lengths(given))


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


@pytest.mark.gpu
@pytest.mark.parametrize("of_documents", [False, True], ids=["whole", "documents"])
@pytest.mark.parametrize("peer", of("attention"), ids=lambda peer: peer.name)
def test_flash_equals_the_reference_on_a_gpu(peer: Peer, of_documents):
    pytest.importorskip(peer.module, exc_type=ImportError)
    function = peer.load()
    if function is None:
        pytest.skip(f"{peer.name} is not installed")
    documents = lengths = None
    if of_documents:
        tokens = torch.randint(150, (3, 640), generator=torch.Generator().manual_seed(1)).cuda()
        documents = reference.document_bounds(tokens, 1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            lengths = cumulative_lengths(documents)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    generator = torch.Generator("cuda").manual_seed(2)
    draw = partial(torch.randn, device="cuda", generator=generator)
    q, k, v, upstream = (
        draw(3, 640, heads, 64).bfloat16().requires_grad_() for heads in (8, 4, 4, 8)
    )
    found, plain_bf16, exact = (
        (attend(*given), *torch.autograd.grad(attend(*given), given, upstream.to(given[0].dtype)))
        for attend, given in (
            (partial(function, lengths=lengths), (q, k, v)),
            (partial(reference.causal, documents=documents), (q, k, v)),
            (
                partial(reference.causal, documents=documents),
                tuple(x.detach().double().requires_grad_() for x in (q, k, v)),
            ),
        )
    )
    for ours, theirs, wanted in zip(found, plain_bf16, exact, strict=True):
        allowed = 2 * (theirs.double() - wanted).norm() + 1e-3 * wanted.norm()
        assert (ours.double() - wanted).norm() <= allowed
