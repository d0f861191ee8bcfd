import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errors import InputError
from runtime import checkpoint
from tests.warm import FORKS

STATE = {"step": 7, "loss": 0.1 + 0.2, "tiny": 5e-324, "rng": [1, 2**63], "none": None, "é": "ü"}


def small(value: float = 1.0) -> dict[str, Tensor]:
    return {"w": torch.full((64,), value)}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool],
    ids=str,
)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    tensor = torch.randn(5, 3, generator=generator).mul(100).to(dtype)
    tensors, state = checkpoint.load(checkpoint.save(tmp_path, 7, {"x": tensor}, STATE), "cpu")
    assert tensors["x"].dtype == dtype
    assert torch.equal(tensors["x"], tensor)
    assert state == STATE


def test_shapes_strides_and_shared_memory_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "transposed": base.T,
        "strided": base[:, ::2],
        "whole": base,
        "again": base,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "broadcast": torch.ones(1).expand(4),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "rng": torch.get_rng_state(),
    }
    loaded, _ = checkpoint.load(checkpoint.save(tmp_path, 0, saved, {}), "cpu")
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].shape == tensor.shape, name
        assert torch.equal(loaded[name], tensor), name
    loaded["whole"][0, 0] = -1
    assert loaded["again"][0, 0] == 0, "loaded tensors must not share memory"


def test_latest_is_by_number_and_old_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None
    for step in (5, 999_999, 1_000_000):
        checkpoint.save(tmp_path, step, small(), {})
    assert checkpoint.latest(tmp_path) == tmp_path / "step_1000000"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1000000", "step_999999"]


def test_leftovers_of_a_kill_are_not_seen_and_go_at_the_next_save(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, small(), {})
    shutil.copytree(path, tmp_path / ".step_000009.part")
    assert checkpoint.latest(tmp_path) == path
    checkpoint.save(tmp_path, 4, small(), {})
    assert hidden(tmp_path) == []


def test_a_step_saved_again_is_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, small(1.0), {"n": 1})
    tensors, state = checkpoint.load(checkpoint.save(tmp_path, 3, small(2.0), {"n": 2}), "cpu")
    assert tensors["w"][0] == 2.0
    assert state == {"n": 2}
    assert hidden(tmp_path) == []


def test_a_checkpoint_that_was_put_aside_is_found_and_restored(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, small(), {"n": 1})
    aside = path.rename(tmp_path / ".step_000003.old")
    assert checkpoint.latest(tmp_path) == aside
    assert checkpoint.load(aside, "cpu")[1] == {"n": 1}
    assert checkpoint.step_of(aside) == 3
    checkpoint.tidy(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_files_and_links_in_the_place_of_checkpoints_keep_none_from_being_saved(
    tmp_path: Path,
) -> None:
    """F12: with a stray file or link `.step_*`, each checkpoint failed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").touch()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".step_000001.old").touch()
    (folder / ".step_stray").touch()
    (folder / ".step_000009.part").symlink_to(victim)
    (folder / "step_000009").symlink_to(victim)
    (folder / "step_000007").symlink_to(tmp_path / "nowhere")
    assert checkpoint.latest(folder) is None
    assert checkpoint.save(folder, 7, small(), {}) == checkpoint.latest(folder)
    checkpoint.save(folder, 9, small(), {})
    assert sorted(each.name for each in folder.iterdir()) == ["step_000007", "step_000009"]
    assert (victim / "mine").exists()


def rewrite(path: Path, **changes: object) -> None:
    record = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(record | changes))


def flip_byte(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def replaced(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


def link_to_hosts(file: Path) -> None:
    file.symlink_to("/etc/hosts")


def grow(file: Path) -> None:
    """Make a sparse file of 200 GB, which was read before its size was compared (F9)."""
    os.truncate(file, 200 << 30)


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


DAMAGE = {
    "tensors cut": (lambda p: cut(p / "tensors.safetensors", 1), "bytes"),
    "tensors altered": (lambda p: flip_byte(p / "tensors.safetensors", -5), "altered"),
    "tensors missing": (lambda p: (p / "tensors.safetensors").unlink(), "no such file"),
    "state cut": (lambda p: cut(p / "state.json", 9), "not whole JSON"),
    "state altered": (lambda p: rewrite(p, state={"n": 2}), "altered"),
    "state missing": (lambda p: (p / "state.json").unlink(), "no checkpoint"),
    "state no table": (lambda p: (p / "state.json").write_text("[1]"), "foreign"),
    "state of another program": (lambda p: rewrite(p, format="other"), "foreign"),
    "another version": (lambda p: rewrite(p, version=99), "version 99"),
    "folder missing": (shutil.rmtree, "no checkpoint"),
    "state a pipe": (lambda p: replaced(p / "state.json", os.mkfifo), "no regular file"),
    "state a link": (lambda p: replaced(p / "state.json", link_to_hosts), "is a link"),
    "tensors a link": (lambda p: replaced(p / "tensors.safetensors", link_to_hosts), "is a link"),
    "state nested": (lambda p: (p / "state.json").write_text("[" * 100_000), "not whole JSON"),
    "state of 200 GB": (lambda p: grow(p / "state.json"), "larger than"),
    "tensors of 200 GB": (lambda p: grow(p / "tensors.safetensors"), "has 214748364800 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    path = checkpoint.save(tmp_path, 1, small(), {"n": 1})
    break_it, expected = DAMAGE[damage]
    break_it(path)
    with pytest.raises(InputError, match=expected) as caught:
        checkpoint.load(path, "cpu")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "one before" not in str(caught.value)


@pytest.mark.parametrize("damage", ["tensors cut", "tensors missing", "state cut"])
def test_the_one_before_is_named_if_there_is_one(tmp_path: Path, damage: str) -> None:
    for others, words in ((0, "no other checkpoint is left"), (1, "to use the one before")):
        for step in range(others):
            checkpoint.save(tmp_path, step, small(), {})
        path = checkpoint.save(tmp_path, 9, small(), {})
        DAMAGE[damage][0](path)
        with pytest.raises(InputError, match=words):
            checkpoint.load(path, "cpu")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(small_disk: Path) -> None:
    before = checkpoint.save(small_disk, 1, small(), {"n": 1})
    with pytest.raises(OSError) as caught:
        checkpoint.save(small_disk, 2, {"w": torch.zeros(2 << 20)}, {})
    assert caught.value.errno == errno.ENOSPC
    assert "step_000002" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir()] == [before.name]
    assert checkpoint.load(before, "cpu")[1] == {"n": 1}


LIMITED = """
import pathlib, resource, signal, sys, torch
from runtime import checkpoint
folder = pathlib.Path(sys.argv[1])
checkpoint.save(folder, 1, {"w": torch.ones(64)}, {"n": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    checkpoint.save(folder, 2, {"w": torch.zeros(1 << 20)}, {})
except OSError as error:
    print(error)
"""


def test_a_write_that_breaks_off_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]
    assert checkpoint.load(tmp_path / "step_000001", "cpu")[1] == {"n": 1}


def assert_all_are_whole(folder: Path, at_least: int) -> None:
    """Each checkpoint that can be seen loads, and the newest is of this step or a later one."""
    newest = checkpoint.latest(folder)
    for path in {*folder.glob("step_*"), *([newest] if newest else [])}:
        tensors, state = checkpoint.load(path, "cpu")
        assert checkpoint.step_of(path) == state["step"]
        assert (tensors["w"] == state["step"]).all()
    assert at_least == 0 or (newest and checkpoint.step_of(newest) >= at_least)


def save_until(moment: int, folder: Path, step: int) -> None:
    seen = itertools.count()

    def die(event: str, _: tuple) -> None:
        if event.startswith(("os.", "open")) and next(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    checkpoint.save(folder, step, small(step), {"step": step})


@pytest.mark.parametrize(
    ("step", "before"),
    [(3, (1, 2)), (2, (1, 2)), (2, (2,))],
    ids=["next", "same again", "the only one again"],
)
def test_a_kill_before_any_file_operation_leaves_whole_ones(
    tmp_path: Path, step: int, before: tuple[int, ...]
) -> None:
    """F4: between two renames, the only checkpoint lay there under a name that nobody read."""
    folder, moment, exitcode = tmp_path, -1, -signal.SIGKILL
    while exitcode == -signal.SIGKILL:
        moment += 1
        folder = tmp_path / str(moment)
        for earlier in before:
            checkpoint.save(folder, earlier, small(earlier), {"step": earlier})
        saver = FORKS.Process(target=save_until, args=(moment, folder, step))
        saver.start()
        saver.join()
        exitcode = saver.exitcode
        assert_all_are_whole(folder, at_least=2)
    assert exitcode == 0
    assert moment > 20, "a save has more file operations than were tried"
    assert_all_are_whole(folder, at_least=step)
    assert hidden(folder) == []


def save_for_ever(folder: Path, first: int, done) -> None:
    torch.set_num_threads(1)
    for step in itertools.count(first):
        checkpoint.save(folder, step, {"w": torch.full((1 << 18,), float(step))}, {"step": step})
        done.value = step


def test_a_kill_at_a_random_moment_leaves_whole_ones(tmp_path: Path) -> None:
    done = FORKS.RawValue("q", 0)
    moments = random.Random(11)
    torn = 0
    for _ in range(10):
        first = done.value
        saver = FORKS.Process(target=save_for_ever, args=(tmp_path, first + 1, done))
        saver.start()
        while done.value == first:
            assert saver.is_alive()
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        saver.kill()
        saver.join()
        assert_all_are_whole(tmp_path, at_least=done.value)
        torn += bool(hidden(tmp_path))
    assert torn > 1, "too few kills hit a save to prove anything"
