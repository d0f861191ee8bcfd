"""The file format: exact, and one clear error for whatever is not such a file."""

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from artifact.format import container
from artifact.format.coding import pack, planes
from artifact.format.container import (
    HEADER_AT,
    MAGIC,
    PREFIX,
    VERSION,
    TooLarge,
    encode,
    read,
    read_with_sizes,
    save,
)
from artifact.stored import Stored
from errors import InputError

ARCHITECTURE = {"layers": 3, "rope_base": 1e4, "name": "tiny", "skips": [1, 2]}


def some_tensors() -> dict[str, Stored]:
    generator = torch.Generator().manual_seed(3)

    def codes(top: int, *shape: int) -> torch.Tensor:
        return torch.randint(-top, top + 1, shape, generator=generator, dtype=torch.int8)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "qo_bank": Stored("int6", codes(31, 4, 16, 16), floats(4, 16).half(), role="attention"),
        "tok_emb": Stored("int8", codes(127, 50, 16), floats(50).half(), "bfloat16", "embed"),
        "up_bank": Stored("int6", codes(31, 2, 48, 16), floats(2, 48).half(), role="mlp"),
        "kv_bank": Stored("int6", codes(31, 4, 8, 16), floats(4, 8).half(), role="attention"),
        "gain": Stored("fp16", floats(3, 8).half()),
        "large": Stored("fp32", floats(5) * 1e9, error=0.125),
        "scalar": Stored("fp16", torch.tensor(0.5).half()),
        "empty": Stored("fp16", torch.empty(0, 16).half()),
    }


def written(path: Path) -> bytes:
    save(path, encode(ARCHITECTURE, some_tensors()))
    return path.read_bytes()


def forged(header: Any, streams: bytes = b"", text_size: int | None = None) -> bytes:
    """A file whose hash is right, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    packed = pack(text)
    size = len(text) if text_size is None else text_size
    prefix = PREFIX.pack(MAGIC, VERSION, len(packed), size)
    return prefix + hashlib.sha256(prefix + packed + streams).digest() + packed + streams


def entry(**changes: Any) -> dict[str, Any]:
    words = {"name": "w", "dtype": "float32", "kind": "fp16", "role": "small", "sha256": "0"}
    return {**words, "shape": [4], "error": 0.0, **changes}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "artifact.bin"
    made = encode(ARCHITECTURE, some_tensors())
    save(path, made)
    architecture, tensors, sizes = read_with_sizes(path)
    assert architecture == ARCHITECTURE
    assert list(tensors) == list(some_tensors())
    for name, stored in some_tensors().items():
        found = tensors[name]
        assert (found.kind, found.dtype, found.role, found.error) == (
            stored.kind,
            stored.dtype,
            stored.role,
            stored.error,
        )
        torch.testing.assert_close(found.values, stored.values, rtol=0, atol=0)
        torch.testing.assert_close(found.scale, stored.scale, rtol=0, atol=0)
    names = ["attention int6", "steps fp16", "embed int8", "mlp int6", "small fp16", "small fp32"]
    assert list(sizes) == ["header", *names]
    assert sizes == made.sizes and sum(sizes.values()) == path.stat().st_size
    assert made.codes == 4 * 16 * 16 + 50 * 16 + 2 * 48 * 16 + 4 * 8 * 16


def test_same_tensors_make_the_same_file(tmp_path: Path) -> None:
    assert written(tmp_path / "a") == written(tmp_path / "b")


def test_a_flipped_byte_anywhere_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "artifact.bin"
    blob = written(path)
    generator = np.random.default_rng(0)
    places = [*range(HEADER_AT + 20), *generator.integers(0, len(blob), 300), len(blob) - 1]
    for place in places:
        damaged = bytearray(blob)
        damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not a sound artifact"):
            read(path)


def test_truncated_or_longer_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "artifact.bin"
    blob = written(path)
    for size in (*range(HEADER_AT + 1), *range(HEADER_AT, len(blob), 97), len(blob) - 1, None):
        path.write_bytes(blob + b"\0" if size is None else blob[:size])
        with pytest.raises(InputError, match="not a sound artifact"):
            read(path)


def test_missing_or_foreign_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="is no regular file; give the path of an artifact"):
        read(tmp_path)
    (tmp_path / "artifact.bin").touch()
    with pytest.raises(InputError, match=f"is no regular file; give {tmp_path}/artifact.bin"):
        read(tmp_path)
    torch.save({"a": torch.ones(3)}, tmp_path / "foreign")
    with pytest.raises(InputError, match="does not begin as one"):
        read(tmp_path / "foreign")


def test_another_version_says_so(tmp_path: Path) -> None:
    blob = bytearray(written(tmp_path / "artifact"))
    blob[len(MAGIC)] = 1
    (tmp_path / "artifact").write_bytes(blob)
    with pytest.raises(InputError, match="its version is 1, and this code reads 2"):
        read(tmp_path / "artifact")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(container.MAX_DECODED + 1)
    with pytest.raises(InputError, match="larger than"):
        read(tmp_path / "sparse")


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([entry(shape=[1 << 40])], "impossible|cannot be stored"),
        ([entry(shape=[1 << 14, (1 << 14) + 1])], "cannot be stored"),
        ([entry(shape=[0, 1 << 29, 1 << 29])], "cannot be stored"),
        ([entry(shape=[-4])], "cannot be stored"),
        ([entry(shape=[4.0])], "cannot be stored"),
        ([entry(shape=[True])], "cannot be stored"),
        ([entry(shape=[1] * 9)], "cannot be stored"),
        ([entry(kind="int6")], "cannot be stored"),
        ([entry(name=f"w{i}", shape=[1 << 26]) for i in range(3)], "more than 268,435,456"),
        ([entry(shape=[1 << 27])], "a stream is of no known coding"),
        ([entry(kind="int8", shape=[1 << 13, 1 << 14])], "a stream of codes is cut short"),
        ([entry(kind="pickle")], "unknown kind"),
        ([entry(role="[red]")], "plain words"),
        ([entry(error="much")], "no number"),
        ([entry(error=float("nan"))], "no number"),
        ([entry(name="[red]")], "plain words"),
        ([entry(sha256=3)], "plain words"),
        ([entry(), entry()], "same name"),
        ([entry(extra=1)], "wrong form"),
        ([entry(shape=4)], "wrong form"),
        ([{}], "wrong form"),
        (7, "wrong form"),
        ([[]], "wrong form"),
    ],
)
def test_a_header_is_not_believed(tmp_path: Path, entries: Any, complaint: str) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(forged({"architecture": {}, "entries": entries}))
    with pytest.raises(InputError, match=complaint):
        read(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: forged(b"\xff\xfe"),
        lambda: forged(b"[" * 200_000),
        lambda: forged(b"[" + b"9" * 9999 + b"]"),
        lambda: forged([]),
        lambda: forged({"architecture": 1, "entries": []}),
        lambda: forged({"architecture": {}, "entries": []}, text_size=0xFFFFFFFF),
        lambda: forged({"architecture": {}, "entries": []}, streams=b"more"),
        lambda: forged(bytes(1 << 24), text_size=1 << 20),
        lambda: forged({"architecture": {}, "entries": [entry()]}, (1 << 31).to_bytes(4, "little")),
    ],
)
def test_a_forged_file_is_an_input_error(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(make())
    with pytest.raises(InputError, match="not a sound artifact"):
        read(path)


def test_a_header_over_the_limit_is_an_input_error(tmp_path: Path) -> None:
    path, header = tmp_path / "artifact", {"architecture": {"a": " " * (1 << 20)}, "entries": []}
    path.write_bytes(forged(header))
    with pytest.raises(InputError, match="its header takes more than 1,048,576 bytes"):
        read(path)
    with pytest.raises(TooLarge, match="its header takes more than 1,048,576 bytes"):
        encode(header["architecture"], {})


def test_huge_claims_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(forged({"architecture": {}, "entries": [entry(shape=[1 << 27])]}))
    tracemalloc.start()
    with pytest.raises(InputError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_each_tensor_is_checked_against_its_own_hash(tmp_path: Path) -> None:
    stream = pack(planes(np.ones(4, "<f2")))
    blob = forged(
        {"architecture": {}, "entries": [entry()]}, len(stream).to_bytes(4, "little") + stream
    )
    (tmp_path / "artifact").write_bytes(blob)
    with pytest.raises(InputError, match="tensor w does not match its SHA-256"):
        read(tmp_path / "artifact")


@pytest.mark.parametrize(
    "stored",
    [
        Stored("int6", torch.ones(2, 3, dtype=torch.int8)),
        Stored("int6", torch.ones(2, 3, dtype=torch.int8), torch.ones(3).half()),
        Stored("int6", torch.ones(2, 3, dtype=torch.int8), torch.ones(2)),
        Stored("fp16", torch.ones(2).half(), torch.ones(2).half()),
        Stored("fp16", torch.ones(2)),
    ],
)
def test_makes_only_what_it_can_read(stored: Stored) -> None:
    with pytest.raises(TypeError, match="not what kind"):
        encode({}, {"w": stored})


def test_a_model_over_the_limit_is_refused_before_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artifact.format.header.MAX_DECODED", 1000)
    with pytest.raises(TooLarge, match="more than 1,000 bytes"):
        encode({}, {"w": Stored("fp32", torch.ones(251))})
    encode({}, {"w": Stored("fp32", torch.ones(250))})
