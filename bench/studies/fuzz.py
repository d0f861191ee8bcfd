"""Damage every kind of file that the project reads: each must be read or refused in one line.

    python -m bench fuzz [--minutes 1] [--count N] [--seed 0]

Files are damaged byte by byte, and JSON and TOML also value by value; then the loaders of the
programs read them. Prints how often each kind was read and refused, and every fault: another
exception than `errors.InputError`, more than 10 s, more than 2 GiB, a crash of the process.
"""

import copy
import json
import random
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from bench.studies.artifact_fuzz import mutated as mutated_artifact
from errors import InputError, printable

SECONDS, BYTES = 10, 2 << 30
WORDS = (b"[", b"{", b'"', b"\\", b"\n", b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"null", b"-1")
WORDS += (b"1e999", b"9" * 400, b"[" * 4000, b"\x1b[31m", b"[/b]", b"=", b".", b"true", b"\r")
VALUES: tuple[object, ...] = (None, True, 0, -1, 2**63, 10**400, 0.5, 1e308, "", "x", "\x1b[31m")
VALUES += ("[/b]", "\ud800", [], {}, [[]], {"a": 1}, ["x"], "/etc/passwd", "../x", "9" * 5000)
Draw = random.Random


class Hang(BaseException):
    """A loader took too long."""


def damaged(name: str, sound: bytes, draw: Draw) -> bytes:
    """Return one damaged copy of a file."""
    if name.endswith((".json", ".jsonl")) and draw.random() < 0.6:
        return other_value(sound, draw)
    if name == "artifact.bin" and draw.random() < 0.8:
        return mutated_artifact(sound, draw)
    blob = bytearray(sound)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        draw.choice((flip, flip, cut, repeat, insert, overwrite))(blob, draw)
    return bytes(blob)


def flip(blob: bytearray, draw: Draw) -> None:
    """Change a bit."""
    if blob:
        blob[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)


def cut(blob: bytearray, draw: Draw) -> None:
    """Remove a stretch."""
    start = draw.randrange(len(blob) + 1)
    del blob[start : start + draw.choice((1, 4, 50, len(blob)))]


def repeat(blob: bytearray, draw: Draw) -> None:
    """Repeat a stretch."""
    start = draw.randrange(len(blob) + 1)
    stretch = bytes(blob[start : start + draw.choice((1, 8, 200))])
    blob[start:start] = stretch * draw.choice((1, 3, 300))


def insert(blob: bytearray, draw: Draw) -> None:
    """Insert a word that parsers stumble over."""
    start = draw.randrange(len(blob) + 1)
    blob[start:start] = draw.choice(WORDS)


def overwrite(blob: bytearray, draw: Draw) -> None:
    """Overwrite a stretch by such a word."""
    start, word = draw.randrange(len(blob) + 1), draw.choice(WORDS)
    blob[start : start + len(word)] = word


def other_value(sound: bytes, draw: Draw) -> bytes:
    """Return JSON, or one line of several, with a value replaced, removed or added."""
    lines = sound.splitlines(keepends=True) if sound.count(b"}\n{") else [sound]
    place = draw.randrange(len(lines))
    root = [json.loads(lines[place])]
    for _ in range(draw.choice((1, 1, 2))):
        change(root, draw)
    lines[place] = json.dumps(root[0] if root else None).encode() + b"\n"
    return b"".join(lines)


def change(root: list, draw: Draw) -> None:
    """Change one value of a tree in place."""
    places = []
    waiting: list = [root]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    if not places:
        return
    node, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.15:
        del node[key]
    elif kind < 0.25 and isinstance(node, dict):
        node[draw.choice(("x", "\x1b[31m", "", "[/b]", "kind"))] = node.pop(key)
    else:
        node[key] = copy.deepcopy(draw.choice(VALUES))


def outcome(load: Callable[[Path], object], folder: Path) -> str:
    """Return ``read``, ``refused``, or what else happened, with its place."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        load(folder)
        return "read"
    except InputError as error:
        return "refused" if len(printable(error)) < 5000 else "FAULT: an error of a page"
    except (Exception, Hang) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"FAULT: {type(error).__name__} at {last.filename}:{last.lineno}: {error!s:.100}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def case(seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Damage one file, read it, restore it; return its kind and the outcome."""
    from bench.studies.fuzz_files import kinds

    every = list(kinds())
    kind, path = every[number % len(every)], folder / every[number % len(every)].path
    sound = path.read_bytes()
    try:
        path.write_bytes(damaged(path.name, sound, Draw(f"{seed} {number}")))
        return kind.path, outcome(kind.load, folder)
    finally:
        path.write_bytes(sound)


def work(seed: int, first: int, until: float, count: int, results: "SimpleQueue") -> None:
    """Try cases from ``first`` on, until the time or their number is over."""
    from bench.studies.fuzz_files import make

    def hang(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))
        for number in range(first, count):
            if time.monotonic() > until:
                break
            results.put((number, *case(seed, number, folder)))
    results.put(None)


def fuzz(minutes: float, count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how often each kind had each outcome, and a line a fault.

    A child process does the work, so that a crash is one more fault.
    """
    context, until = get_context("spawn"), time.monotonic() + 60 * minutes
    found: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    first = 0
    while time.monotonic() < until and first < count:
        results = context.SimpleQueue()
        child = context.Process(target=work, args=(seed, first, until, count, results), daemon=True)
        child.start()
        while (result := next_result(results, child)) is not None:
            number, kind, said = result
            first = number + 1
            found[kind, said.split(":")[0]] += 1
            if said.startswith("FAULT"):
                faults.append(f"case {number} of seed {seed}, {kind}: {said}")
        child.join()
        if not child.exitcode:
            break
        faults.append(f"case {first} of seed {seed}: the process ended with {child.exitcode}")
        first += 1
    return found, faults


def next_result(results, child) -> tuple[int, str, str] | None:
    """Return the child's next result; None once it has ended."""
    while results.empty():
        if not child.is_alive():
            return None if results.empty() else results.get()
        time.sleep(0.001)
    return results.get()


def main(*, minutes: float = 1.0, count: int = 10**9, seed: int = 0) -> int:
    """Print the table and the faults; 1 if there is a fault."""
    found, faults = fuzz(minutes, count, seed)
    print("| file | read | refused | faults |\n|---|---|---|---|")
    for kind in dict.fromkeys(name for name, _ in found):
        cells = [f"{found[kind, said]:,}" for said in ("read", "refused", "FAULT")]
        print(f"| {kind} | {' | '.join(cells)} |")
    print(f"{found.total():,} damaged files, {len(faults)} faults")
    for line in faults[:50]:
        print(printable(line))
    return int(bool(faults))
