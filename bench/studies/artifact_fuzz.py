"""Throw damaged artifacts at the reader: each must be read exactly or refused with one clear error.

    python -m bench artifact_fuzz [--count 10000] [--seed 0]

A file whose SHA-256 does not match is refused before it is decoded. So most trials change bytes,
sizes or fields of the header and then compute the hash again. The table counts exceptions other
than `errors.InputError`, and has the longest time and the most memory.
"""

import hashlib
import json
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from artifact.export import load
from artifact.format import coding, container
from artifact.quantisation.recipe import Recipe, quantise
from errors import InputError
from runtime.progress import Progress

SECONDS = 60  # for one file: a reader that takes longer hangs
ENTRY_VALUES = (-1, 0, 1, 3, 1 << 20, 1 << 28, 1 << 40, 1.5, True, None, "x", [], [1 << 20] * 3, {})


def sound_file() -> bytes:
    """Return a small artifact with every kind of stream: integers, floats, a correction."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {
        "qo_bank": normal(2, 24, 16),
        "up_bank": normal(1, 40, 16),
        "tok_emb": normal(1030, 64),
        "mix": normal(2, 2, 16),
        "huge": normal(3) * 1e6,
    }
    inputs = normal(2, 64, 16)
    roles = {"qo_bank": "attention", "up_bank": "mlp", "tok_emb": "embed"}
    roles |= {"mix": "small", "huge": "small"}
    recipe = Recipe(rank=2, corrected=1)
    stored = quantise(weights, roles, recipe, {"qo_bank": inputs.mT @ inputs})
    return container.encode({"layers": 2}, stored).blob


def mutated(blob: bytes, draw: random.Random) -> bytes:
    """Return one damaged copy of a sound file."""
    kinds = (_bytes_changed, _cut_or_longer, _header_changed, _sizes_changed, _not_hashed)
    return draw.choice(kinds)(blob, draw)


def _hashed(prefix: bytes, body: bytes) -> bytes:
    return prefix + hashlib.sha256(prefix + body).digest() + body


def _bytes_changed(blob: bytes, draw: random.Random) -> bytes:
    body = bytearray(blob[container.HEADER_AT :])
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return _hashed(blob[: container.PREFIX.size], bytes(body))


def _cut_or_longer(blob: bytes, draw: random.Random) -> bytes:
    body = blob[container.HEADER_AT :]
    body = body[: draw.randrange(len(body))] if draw.random() < 0.5 else body + draw.randbytes(9)
    return _hashed(blob[: container.PREFIX.size], body)


def _header_changed(blob: bytes, draw: random.Random) -> bytes:
    _, _, packed_size, text_size = container.PREFIX.unpack_from(blob)
    end = container.HEADER_AT + packed_size
    fields = json.loads(coding.unpack(blob[container.HEADER_AT : end], text_size))
    for _ in range(draw.choice((1, 1, 2))):
        entry = draw.choice(fields["entries"])
        field = draw.choice(list(entry))
        if isinstance(entry[field], list) and entry[field] and draw.random() < 0.5:
            entry[field][draw.randrange(len(entry[field]))] = draw.choice(ENTRY_VALUES)
        else:
            entry[field] = draw.choice((*ENTRY_VALUES, "int2", "int8", "fp16", "fp32", "steps"))
    text = json.dumps(fields).encode()
    packed = coding.pack(text)
    magic, version = container.MAGIC, container.VERSION
    return _hashed(
        container.PREFIX.pack(magic, version, len(packed), len(text)), packed + blob[end:]
    )


def _sizes_changed(blob: bytes, draw: random.Random) -> bytes:
    """Replace a number of four bytes somewhere, the prefix included."""
    changed = bytearray(blob[: container.PREFIX.size] + blob[container.HEADER_AT :])
    place = draw.choice((12, 16, draw.randrange(len(changed) - 4)))
    number = draw.choice((0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1, draw.getrandbits(32)))
    changed[place : place + 4] = number.to_bytes(4, "little")
    return _hashed(bytes(changed[: container.PREFIX.size]), bytes(changed[container.PREFIX.size :]))


def _not_hashed(blob: bytes, draw: random.Random) -> bytes:
    changed = bytearray(blob)
    changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
    return bytes(changed)


def outcome(blob: bytes, folder: Path) -> str:
    """Return ``read``, ``InputError``, or the name of another exception."""
    path = folder / "artifact.bin"
    path.write_bytes(blob)
    try:
        load(path)
    except InputError as error:
        return "InputError" if "\n" not in str(error) else "InputError of several lines"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def fuzz(count: int, seed: int, tell: Callable[[int], object]) -> tuple[Counter[str], float]:
    """Return outcomes of ``count`` damaged files by how often, and the longest seconds of one."""
    blob, draw = sound_file(), random.Random(seed)
    outcomes: Counter[str] = Counter()
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            damaged = mutated(blob, draw)
            begin = time.perf_counter()
            signal.alarm(SECONDS)
            outcomes[outcome(damaged, Path(folder))] += 1
            signal.alarm(0)
            longest = max(longest, time.perf_counter() - begin)
            tell(number + 1)
    return outcomes, longest


def main(*, count: int = 10_000, seed: int = 0) -> int:
    """Print what came up; 1 if anything but a sound reading or an InputError did."""
    with Progress(None, None) as progress:
        outcomes, longest = fuzz(
            count, seed, lambda done: done % 500 or progress.phase(f"{done} of {count} files")
        )
    for name, times in outcomes.most_common():
        print(f"{times:7,}  {name}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"longest {longest:.2f} s, most memory {memory:.2f} GiB")
    return int(bool(set(outcomes) - {"read", "InputError"}))
