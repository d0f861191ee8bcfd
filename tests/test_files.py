"""Files are whole or absent, and no other file is touched."""

import os
from pathlib import Path

import pytest

from files import atomic_write


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path):
    """F14: whoever may write to the folder could have a file of the user's overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".out.{os.getpid()}.part").symlink_to(victim)
    with atomic_write(tmp_path / "out") as file:
        file.write(b"new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "out") as file:
        file.write(b"half")
        _ = 1 // 0
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "old")]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as missing, atomic_write(tmp_path / "no" / "out"):
        pass
    assert missing.value.filename == str(tmp_path / "no" / "out")
