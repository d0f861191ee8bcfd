"""The table of other packages: what each computes, and what is said where one is missing."""

import re

import pytest
import torch

from files import PROJECT
from kernels import operations
from kernels.peers import PEERS, Peer, missing, of
from tests.kernels.stand_ins import LIGER, PACKAGES, install, remove
from tests.kernels.tools.compare import check, random_tensors

REFERENCE = operations("reference")
TARGETS = torch.tensor([[1, 4, 0], [3, 3, 2]], dtype=torch.int32)


@pytest.fixture(autouse=True)
def none_installed(monkeypatch):
    remove(monkeypatch)


def loaded(monkeypatch: pytest.MonkeyPatch, peer: Peer):
    install(monkeypatch, peer.module, PACKAGES[peer.module])
    call = peer.load()
    assert call is not None
    return call


@pytest.mark.parametrize("peer", of("norm"), ids=lambda peer: peer.name)
def test_norms_are_the_references(monkeypatch, peer):
    call, half = loaded(monkeypatch, peer), torch.full((8,), 0.5, dtype=torch.float64)
    check(
        lambda x: [call(x, half.to(x), 1e-6)],
        lambda x: REFERENCE.norm(x, scale=0.5, eps=1e-6)[1:],
        random_tensors(1, x=(2, 3, 8)),
    )


@pytest.mark.parametrize("peer", of("loss"), ids=lambda peer: peer.name)
def test_losses_are_the_references(monkeypatch, peer):
    call, softcap = loaded(monkeypatch, peer), 2.0
    drawn = random_tensors(2, hidden=(2, 3, 8), head=(5, 8))
    hidden, head = drawn["hidden"].float(), drawn["head"].float()
    # QuACK has no softcap, and one so wide is none.
    wide = 1e6 if peer.name == "QuACK" else softcap
    found = call(hidden, head, TARGETS, softcap=softcap)
    expected = REFERENCE.loss(hidden, head, TARGETS, softcap=wide)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


def test_the_mlp_is_the_references(monkeypatch):
    (peer,) = of("mlp")
    call = loaded(monkeypatch, peer)
    check(
        lambda x, up, down: [call(x, up, down)],
        lambda x, up, down: [REFERENCE.mlp(x, up, down, slope=0.0)],
        random_tensors(3, x=(2, 3, 8), up=(12, 8), down=(8, 12)),
    )


def test_what_is_missing_is_one_line(monkeypatch):
    assert missing() == (
        "not installed: FlashAttention-4, FlashAttention-3 (flash_attn_interface, from source), "
        "FlashAttention-2, QuACK, Liger; pip install flash-attn-4 flash-attn quack-kernels "
        "liger-kernel"
    )
    for package, functions in PACKAGES.items():
        if package != LIGER:
            install(monkeypatch, package, functions)
    assert missing() == "not installed: Liger; pip install liger-kernel"
    install(monkeypatch, LIGER, PACKAGES[LIGER])
    assert missing() == ""


@pytest.mark.parametrize("error", ["ImportError", "TypeError"])
def test_a_package_that_breaks_on_import_is_missing(monkeypatch, tmp_path, error):
    name = f"broken_by_{error.lower()}"
    (tmp_path / f"{name}.py").write_text(f"raise {error}('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = Peer("norm", "Broken", "broken-peer", name, (), lambda module: None)
    assert missing([broken]) == "not installed: Broken; pip install broken-peer"


def test_the_list_to_install_names_each_package_of_the_index():
    text = (PROJECT / "requirements-bench.txt").read_text()
    named = set(re.findall(r"^#? ?([a-z0-9-]+)==", text, re.MULTILINE))
    assert {peer.distribution for peer in PEERS if peer.distribution} <= named
