"""Compressed files as streams that notice where they are cut off."""

import gzip
import io
import lzma
from typing import BinaryIO, cast

COMPRESSED = (".gz", ".xz", ".zst")
MAX_WINDOW = 1 << 31
"""Bytes of the longest window that ``zstd --long=31`` makes; reading needs as much memory."""
BLOCK = 1 << 16


def decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    """Return the content of a file, decompressed if its last suffix is in ``COMPRESSED``.

    Reading raises OSError, EOFError, zlib.error or LZMAError where the file is damaged.
    """
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(raw))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstandard(raw), BLOCK))
    return raw


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after the other; the package's own reader ends a cut one in silence."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw, self._error = raw, zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._frame = None
        self._compressed, self._plain = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._plain:
            self._compressed = self._compressed or self._raw.read(BLOCK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._plain = memoryview(self._decompress())
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _decompress(self) -> bytes:
        """Return what the bytes at hand give; raise OSError if they are no frame's."""
        self._frame = self._frame or self._decompressor.decompressobj()
        try:
            plain = self._frame.decompress(self._compressed)
        except self._error as error:
            raise OSError(str(error)) from None
        self._compressed = b""
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None
        return plain
