"""Streams come back bit for bit, never larger than expected, from whichever library is best."""

import json
import tracemalloc

import numpy as np
import pytest

from artifact.format.coding import LIBRARIES, from_planes, pack, planes, unpack

TEXT = json.dumps([{"name": f"tensor{i}", "shape": [i, 512]} for i in range(300)]).encode()


def streams() -> dict[str, bytes]:
    noise = np.random.default_rng(0)
    return {
        "empty": b"",
        "one byte": b"x",
        "noise": noise.bytes(3000),
        "zeros": bytes(70_000),
        "text": TEXT,
        "skewed": noise.binomial(20, 0.3, 60_000).astype(np.uint8).tobytes(),
    }


@pytest.mark.parametrize("name", streams())
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gives_back_what_it_took(name: str, library) -> None:
    raw = streams()[name]
    assert library.unpack(library.pack(raw), len(raw)) == raw


@pytest.mark.parametrize("name", streams())
def test_the_shortest_is_kept(name: str) -> None:
    raw = streams()[name]
    packed = pack(raw)
    assert len(packed) == 1 + min(len(library.pack(raw)) for library in LIBRARIES)
    assert unpack(packed, len(raw)) == raw


def test_none_is_best_at_everything() -> None:
    """Noise is stored, this text is LZMA's, a skewed distribution brotli's."""
    best = {name: pack(raw)[0] for name, raw in streams().items()}
    assert (best["noise"], best["text"], best["skewed"]) == (0, 1, 3)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bomb_is_refused_without_being_unpacked(library) -> None:
    bomb = library.pack(bytes(1 << 25))  # more than brotli's window of 16 MB
    packed = bytes([LIBRARIES.index(library)]) + bomb
    tracemalloc.start()
    with pytest.raises(ValueError, match="the 1,000 bytes that are expected"):
        unpack(packed, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(packed) + (1 << 20)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("change", ["short", "long", "more", "less", "noise"])
def test_a_stream_of_another_size_is_refused(library, change: str) -> None:
    place, raw = bytes([LIBRARIES.index(library)]), b"abcd" * 100
    packed = place + library.pack(raw)
    size = {"more": 401, "less": 399}.get(change, 400)
    changed = {"short": packed[:-1], "long": packed + b"\0", "noise": place + b"\xff" * 50}
    with pytest.raises(ValueError, match="a stream"):
        unpack(changed.get(change, packed), size)


@pytest.mark.parametrize("packed", [b"", b"\x04abc", b"\xff"])
def test_an_unknown_coding_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="no known coding"):
        unpack(packed, 3)


def test_floats_pack_better_in_planes() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.3, 30_000).astype("<f2")
    assert np.array_equal(from_planes(planes(values), values.dtype), values)
    assert planes(np.array([0x0102, 0x0304], "<u2")) == b"\x02\x04\x01\x03"
    assert len(pack(planes(values))) < 0.98 * len(pack(values.tobytes()))
