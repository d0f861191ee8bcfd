"""Files are read only where they are regular and small enough."""

import os
from pathlib import Path

import pytest

from errors import InputError
from reading.regular import LINE_BYTES, read_bytes, read_lines

REMEDY = "give another"


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5, REMEDY) == b"12345"
    with pytest.raises(InputError, match=r"a: larger than 4 bytes; give another$"):
        read_bytes(tmp_path / "a", 4, REMEDY)


def test_a_sparse_file_of_200_gb_is_refused_unread(tmp_path: Path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(200 << 30)
    with pytest.raises(InputError, match="larger than"):
        read_bytes(tmp_path / "big", 1 << 26, REMEDY)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="is no regular file"):
            read_bytes(path, 10, REMEDY)
    with pytest.raises(InputError, match="no such file; give another"):
        read_bytes(tmp_path / "absent", 10, REMEDY)
    with pytest.raises(InputError, match="cannot be read"):
        read_bytes(Path("a\0b"), 10, REMEDY)


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("a")
    assert read_bytes(tmp_path / "link", 5, REMEDY) == b"1"
    with pytest.raises(InputError, match="link: is a link; give another"):
        read_bytes(tmp_path / "link", 5, REMEDY, links=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_is_one_line(tmp_path: Path):
    (tmp_path / "a").touch(mode=0)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)"):
        read_bytes(tmp_path / "a", 5, REMEDY)


def test_lines_come_with_their_ends_and_a_long_one_in_parts(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1\n\n22")
    assert list(read_lines(tmp_path / "a", REMEDY)) == [b"1\n", b"\n", b"22"]
    with (tmp_path / "a").open("wb") as file:
        file.truncate(LINE_BYTES + 3)
    assert list(map(len, read_lines(tmp_path / "a", REMEDY))) == [LINE_BYTES, 3]
