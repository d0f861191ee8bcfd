"""Checkpoints: whole or absent, verified when loaded, and never able to run code."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from errors import InputError
from files import atomic_write, sync_folder, write_text
from reading.regular import open_regular, read_bytes
from reading.structured import parse_json

FORMAT = "murmuration-checkpoint"
VERSION = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
STATE_BYTES = 1 << 26
NO_STATE = "its folder is no checkpoint; give a step_NNNNNN folder of a run's checkpoints"
STEP_FOLDER = re.compile(r"step_\d{6,}")
ASIDE = re.compile(r"\.step_\d{6,}\.old")


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: dict, *, keep: int = 2
) -> Path:
    """Write ``folder/step_000123``, then remove all but the newest ``keep`` checkpoints.

    The step's folder is made under a hidden name, flushed to the disk and renamed. So ``latest``
    finds a whole checkpoint, whenever the process dies. One process at a time may save to a
    folder. A checkpoint of the same step is replaced: whenever the process dies, ``latest`` finds
    the old one or the new one.

    Args:
        tensors: dense tensors of any shape, stride and device; shared memory is saved twice.
        state: plain JSON; floats are restored exactly, tuples as lists.

    Raises:
        OSError: the disk is full or the folder not writable; earlier checkpoints are untouched
            and nothing of this one remains.
    """
    target = Path(folder) / f"step_{step:06d}"
    partial = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tidy(target.parent)
        partial.mkdir()
        _write(partial, step, tensors, state)
        if os.path.lexists(target):
            target.rename(_aside(target))
        partial.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in every(target.parent)[:-keep]:
        with suppress(OSError):
            _remove(old)
    tidy(target.parent)
    return target


def latest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in ``folder``; None if there is no whole one.

    It has a hidden name if the process was killed while it replaced this checkpoint.
    """
    steps = every(Path(folder))
    return steps[-1] if steps else None


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name says."""
    return int(re.sub(r"\D", "", checkpoint.name))


def tidy(folder: Path) -> None:
    """Finish what a killed process left: restore replaced checkpoints, remove other leftovers.

    What cannot be removed stays, as nothing reads it.
    """
    folder = Path(folder)
    for leftover in folder.glob(".step_*"):
        with suppress(OSError):
            if leftover in every(folder):
                leftover.rename(_in_place(leftover))
            else:
                _remove(leftover)


def load(path: Path, device: torch.device | str) -> tuple[dict[str, Tensor], dict]:
    """Return tensors on ``device`` and state of a checkpoint, bit for bit as saved.

    Raises:
        InputError: ``path`` is no checkpoint, has another version, or was truncated or altered.
    """
    path = Path(path)
    record = _read_record(path)
    with open_regular(path / TENSORS, _remedy(path), links=False) as file:
        size = os.fstat(file.fileno()).st_size
        if size != record["bytes"]:
            raise _unusable(path, f"{TENSORS} has {size} bytes, not {record['bytes']}")
        data = file.read()
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise _unusable(path, f"{TENSORS} was altered (SHA-256 differs)")
    tensors = {name: tensor.to(device) for name, tensor in read_tensors(data).items()}
    return tensors, record["state"]


def _write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: dict) -> None:
    data = tensor_bytes({name: _on_host(tensor) for name, tensor in tensors.items()})
    with atomic_write(folder / TENSORS) as file:
        file.write(data)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "state": state,
    }
    write_text(folder / STATE, json.dumps(record | {"record_sha256": _digest(record)}))


def _on_host(tensor: Tensor) -> Tensor:
    # Always a copy: safetensors refuses tensors that share memory, and strides it cannot keep.
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _read_record(path: Path) -> dict:
    text = read_bytes(path / STATE, STATE_BYTES, NO_STATE, links=False)
    try:
        record = parse_json(text, nonfinite=True)
    except ValueError as error:
        raise _unusable(path, f"{STATE} is not whole JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this project: {STATE} is foreign")
    if record.get("version") != VERSION:
        raise InputError(
            f"{path} is of checkpoint version {record.get('version')!s:.20}, this code reads "
            f"{VERSION}; "
            "resume with the code that wrote it"
        )
    if record.pop("record_sha256", None) != _digest(record):
        raise _unusable(path, f"{STATE} was altered (SHA-256 differs)")
    return record


def _digest(record: dict) -> str:
    # JSON keeps the order of keys and every digit of a float, so a second dump is the same text.
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _unusable(path: Path, fault: str) -> InputError:
    return InputError(f"checkpoint {path} is damaged: {fault}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    """Return what to do about a checkpoint that cannot be used."""
    others = [other for other in every(path.parent) if other.name != path.name]
    if others:
        return "remove this checkpoint to use the one before"
    return "no other checkpoint is left: start a new run"


def every(folder: Path) -> list[Path]:
    """Return the whole checkpoints in order; of a step that was being replaced, one of the two."""
    if not folder.is_dir():
        return []
    whole = {p.name: p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()}
    found = [path for name, path in whole.items() if STEP_FOLDER.fullmatch(name)]
    aside = [path for name, path in whole.items() if ASIDE.fullmatch(name)]
    found += [path for path in aside if _in_place(path).name not in whole]
    return sorted(found, key=step_of)


def _aside(checkpoint: Path) -> Path:
    """Return the hidden name of a whole checkpoint while another takes its place."""
    return checkpoint.with_name(f".{checkpoint.name}.old")


def _in_place(aside: Path) -> Path:
    """Return the name that belongs to a checkpoint with a hidden one."""
    return aside.with_name(aside.name.removeprefix(".").removesuffix(".old"))


def _remove(path: Path) -> None:
    """Remove a checkpoint, or a file or link in its place."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Hidden before files are deleted, because a kill meanwhile must not leave half a checkpoint.
    if not path.name.endswith(".removed"):
        path = path.rename(path.with_name(f".{path.name.removeprefix('.')}.removed"))
    shutil.rmtree(path)
