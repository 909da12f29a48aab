"""Tar: the same files as Python's tarfile finds, in every format that it writes."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from sightline.data.tar import Tar, TarError

NAMES = ("plain.txt", "deep/er/name.jpg", "grün/größe.png", "l" * 90 + "/" + "o" * 60 + ".txt", "n" * 200 + ".json")


def written(format_: int, names: tuple[str, ...] = NAMES) -> bytes:
    file, draw = io.BytesIO(), random.Random(0)
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for size, name in zip((0, 1, 511, 512, 5000), names, strict=False):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, 1234567890.5
            tar.addfile(member, io.BytesIO(draw.randbytes(size)))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "plain.txt" * (20 if format_ != tarfile.USTAR_FORMAT else 1)
        tar.addfile(link)
        last = tarfile.TarInfo("last.txt")
        last.size = 3
        tar.addfile(last, io.BytesIO(b"end"))
    return file.getvalue()


def theirs(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_files_are_those_that_tarfile_finds(format_: int, seekable: bool) -> None:
    content = written(format_, NAMES[:4] if format_ == tarfile.USTAR_FORMAT else NAMES)
    tar = Tar(io.BytesIO(content), seekable=seekable)
    assert {name: tar.content() for name in tar} == theirs(content)
    tar = Tar(io.BytesIO(content), seekable=seekable)  # passing over what is not asked for
    assert {name: tar.content() for name in tar if name == "last.txt"} == {"last.txt": b"end"}


def test_what_the_command_tar_writes(tmp_path: Path) -> None:
    for name in (*NAMES[:3], "x" * 130):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name * 70)
    for format_ in ("gnu", "pax", "ustar", "v7"):
        names = list(NAMES[:3]) + ["x" * 130] * (format_ in ("gnu", "pax"))
        command = ["tar", f"--format={format_}", "-cf", "out.tar", "-C", "in", *names]
        subprocess.run(command, cwd=tmp_path, check=True)
        tar = Tar((tmp_path / "out.tar").open("rb"), seekable=True)
        assert {name: tar.content().decode() for name in tar} == {name: name * 70 for name in names}


def test_large_sizes_are_binary() -> None:
    member = tarfile.TarInfo("large.bin")
    member.size = 9 << 30
    tar = Tar(io.BytesIO(member.tobuf(tarfile.GNU_FORMAT)), seekable=False)
    assert next(iter(tar)) == "large.bin" and tar._size == 9 << 30


@pytest.mark.parametrize("seekable", [True, False])
def test_damage_is_an_error_and_not_an_end(seekable: bool) -> None:
    content = bytearray(written(tarfile.GNU_FORMAT, NAMES[:3]))
    at = content.index(b"last.txt")
    content[at + 3] ^= 1
    found = []
    with pytest.raises(TarError, match="bad header"):
        found += list(Tar(io.BytesIO(content), seekable=seekable))
    for length in (100, 512 * 2 + 30, at + 512 + 1):
        with pytest.raises(TarError, match="unexpected end"):
            list(Tar(io.BytesIO(written(tarfile.GNU_FORMAT, NAMES[:3])[:length]), seekable=seekable))
