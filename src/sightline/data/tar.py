"""Tar files from front to back: the names and contents of the files in them.

Python's `tarfile` spends most of a shard's time on owners and dates, remembers every member, and takes a damaged header
for the end of the file. Here such a header is an error, and a member costs its name, its size and its checksum.
Formats: ustar and pax (POSIX.1-2017, utility pax), GNU's long names and large sizes (GNU tar manual, "Tar Internals").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

BLOCK = 512
REGULAR = (b"0", b"\0", b"7")
NO_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders
PAX, PAX_FOR_ALL, LONG_NAME, SPARSE = b"x", b"g", b"L", b"S"
SKIPPED_AT_ONCE = 1 << 20  # bytes, where there is no seeking


class TarError(Exception):
    """The file is no tar, is damaged, or ends in the middle."""


class Tar:
    """The files of a tar: iterate, and ask for the `content` of the one at hand before going on.

    Args:
        file: read from where it stands.
        seekable: whether contents that nobody asks for can be passed over by seeking.
    """

    def __init__(self, file: IO[bytes], *, seekable: bool) -> None:
        self._file, self._seekable = file, seekable
        self._left = 0  # bytes of the file at hand, padding included, that have not been read
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        """The names of the regular files. Raises TarError."""
        long_name, pax = None, dict[str, str]()
        while (header := self._block()) is not None:
            kind, size = header[156:157], _number(header[124:136])
            if kind == SPARSE:
                raise TarError("holds a sparse file")
            size = int(pax.get("size", size)) if kind not in (PAX, PAX_FOR_ALL) else size
            self._size = 0 if kind in NO_CONTENT else size
            self._left = -(-self._size // BLOCK) * BLOCK
            if kind == PAX:
                pax = _records(self.content())
            elif kind == LONG_NAME:
                long_name = _text(self.content())
            elif kind not in (PAX_FOR_ALL, b"K"):
                name = pax.get("path") or long_name or _name(header)
                long_name, pax = None, {}
                if kind in REGULAR and not name.endswith("/"):
                    yield name
            self._skip(self._left)

    def content(self) -> bytes:
        """The bytes of the file at hand; to be asked for once. Raises TarError where they end too early."""
        content = self._exactly(self._size)
        self._left -= self._size
        return content

    def _block(self) -> bytes | None:
        """The next header; None at the end of the tar."""
        header = self._file.read(BLOCK)
        if not header or not header.strip(b"\0"):
            return None
        if len(header) < BLOCK:
            header += self._exactly(BLOCK - len(header))
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
            raise TarError("bad header")
        return header

    def _exactly(self, count: int) -> bytes:
        content = self._file.read(count)
        while len(content) < count:
            more = self._file.read(count - len(content))
            if not more:
                raise TarError("unexpected end of data")
            content += more
        return content

    def _skip(self, count: int) -> None:
        if self._seekable and count > BLOCK:
            self._file.seek(count - 1, os.SEEK_CUR)
            count = 1  # read, not sought: one can seek behind a file's end
        while count > 0:
            count -= len(self._exactly(min(count, SKIPPED_AT_ONCE)))


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary one, which begins with 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise TarError("bad header") from error


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _records(content: bytes) -> dict[str, str]:
    """A pax header's records, each of them "length key=value\\n"."""
    found = {}
    while content.strip(b"\0"):
        length, _, rest = content.partition(b" ")
        try:
            record, content = rest[: int(length) - len(length) - 2], content[int(length) :]
        except ValueError as error:
            raise TarError("bad pax header") from error
        key, _, value = record.partition(b"=")
        found[_text(key)] = value.decode("utf-8", "surrogateescape")
    return found
