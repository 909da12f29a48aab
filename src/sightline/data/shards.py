"""Tar shards: which there are, how many samples each holds, and the samples of one in order, as they come.

A shard is a local file or whatever webdataset's `gopen` opens (`pipe:command`, `https://...`, `gs://...`). A sample is
the neighbouring members that share what stands before the first dot of their names, as in webdataset.

webdataset's own pipeline is not used beyond opening: it has no place to resume from (its issue 234), its epoch-seeded
shuffle does not count epochs in loading processes that end (issue 172, pull request 299), and members without an
ending, and all that follows a damaged header, are left out without a count (`tariterators.py`, 1.0.2).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sightline.data.files import data_files, unbraced
from sightline.data.row import Where
from sightline.data.tar import Tar, TarError
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

SIZES = "sizes.json"  # shard name -> samples, beside the shards; img2dataset's and open_clip's name for it
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")  # two letters at least: C: is a disk
UNPACK: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CUT = (TarError, EOFError, lzma.LZMAError, zlib.error)
BUFFER = 1 << 18  # bytes read at once of a local shard; when members are passed over, what a disk reads anyway


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's file or address, and the samples that it holds."""

    url: str
    samples: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample as it stands in its shard: members by their endings (".jpg"), or why it is `broken`."""

    where: Where
    key: str
    members: Mapping[str, bytes] = field(repr=False)
    broken: str | None = None


def find_shards(spec: DataSpec, name: str) -> tuple[Shard, ...]:
    """The shards of `spec.path` in the order of their names, counted: by a sizes file, else by local tars' headers.

    Raises:
        UserError: no such shard, one that is no tar, or remote ones without a sizes file.
    """
    urls = shard_urls(spec, name)
    sizes = _sizes(spec, name, urls)
    found = []
    for url in urls:
        if sizes is None:
            found.append(Shard(url, _counted(url, spec.broken == "skip")))
            continue
        samples = sizes.get(url, sizes.get(base_name(url)))
        if not isinstance(samples, int) or samples < 0:
            what = f"the sizes file has no number of samples for shard {base_name(url)}"
            raise UserError(what, where=f"data.{name}.stream.sizes", fix="write the file anew, or remove it")
        found.append(Shard(url, samples))
    if not sum(shard.samples for shard in found):
        raise UserError("holds no samples", where=f"data.{name}.path")
    return tuple(found)


def read_shard(shard: Shard, start: int = 0) -> Iterator[Sample]:
    """The samples of `shard` from the one at `start` (0: the first) to the last that was counted.

    A sample that is cut off, and all that were counted behind it, come as broken ones, so that none is lost unseen.

    Raises:
        UserError: the shard cannot be opened, the way to it breaks off, or it holds more samples than were counted.
    """
    number = start
    with _opened(shard.url) as file:
        broken = "its shard has fewer samples than were counted"
        try:
            for at, key, members in _samples(_tar(file, shard.url), start):
                if at == shard.samples:
                    what = f"holds more than the {shard.samples:,} samples that were counted"
                    raise UserError(what, where=shard.url, fix=f"correct its count in {SIZES}, or remove that file")
                yield _sample(shard, at, key, members)
                number = at + 1
            if number < shard.samples:
                _ended(file, shard.url)
        except CUT as error:
            _ended(file, shard.url)
            broken = f"its shard is cut off ({error})"
        except OSError as error:
            raise UserError(f"cannot be read to its end: {error}", where=shard.url) from error
    for at in range(number, shard.samples):
        yield Sample(Where(shard.url, at + 1), "?", {}, broken)


def base_name(url: str) -> str:
    """The shard's file name: ``pairs-000.tar`` of ``pipe:aws s3 cp s3://bucket/pairs-000.tar -``."""
    names = re.findall(r"[^/\s=?&]+\.tar(?:\.\w+)?", url)
    return names[-1] if names else url.rpartition("/")[2]


def is_remote(path: str) -> bool:
    """Whether `path` is an address (``pipe:``, ``https:``, ...) and no local file."""
    return SCHEME.match(path) is not None and not path.startswith("file:")


def shard_urls(spec: DataSpec, name: str) -> list[str]:
    """The shards' files or addresses. Raises UserError where a local one is missing."""
    path = (spec.path or "").removeprefix("file:")
    remote = is_remote(path)
    local = spec.model_copy(update={"path": path or None})
    urls = unbraced(path) if remote else [str(file) for file in data_files(local, name)]
    if len(set(urls)) < len(urls):
        raise UserError("names a shard twice", where=f"data.{name}.path")
    return urls


def _sizes(spec: DataSpec, name: str, urls: list[str]) -> dict[str, Any] | None:
    assert spec.stream is not None
    remote = is_remote(urls[0])
    beside = None if remote else Path(urls[0]).with_name(SIZES)
    path = Path(spec.stream.sizes).expanduser() if spec.stream.sizes else beside
    if path is None:
        what = "how many samples these shards hold is not known, and to count them would be to fetch them all"
        fix = f'give data.{name}.stream.sizes: a JSON file such as {{"{base_name(urls[0])}": 10000, ...}}'
        raise UserError(what, where=f"data.{name}.path", fix=fix)
    if not path.is_file():
        if spec.stream.sizes:
            raise UserError(f"there is no file {path}", where=f"data.{name}.stream.sizes")
        return None
    try:
        sizes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(sizes, dict):
        raise UserError("is not an object of shard names and numbers of samples", where=str(path))
    return sizes


def _counted(url: str, broken: bool) -> int:
    """The samples of a local shard by its members' headers; where it may be `broken`, up to where it is cut off."""
    count, key = 0, None
    with _opened(url, 0) as file:
        try:
            for member_key, _ in _members(_tar(file, url)):
                count += member_key != key
                key = member_key
        except CUT as error:
            what = f"is cut off in sample {count} ({error})" if count else f"is not a tar file: {error}"
            if not broken or not count:
                fix = "make it again, or set broken: skip to leave out its last sample; what was behind it is lost"
                raise UserError(what, where=url, fix=fix) from error
    return count


@contextlib.contextmanager
def _opened(url: str, buffer: int = BUFFER) -> Iterator[IO[bytes]]:
    try:
        file = _stream(url, buffer)
    except (OSError, ValueError) as error:
        fix = "make it again, or take it out of the path"
        raise UserError(f"shard cannot be read: {error}", where=url, fix=fix) from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # a command that we stopped listening to says so by its exit status
            file.close()


def _tar(file: IO[bytes], url: str) -> Tar:
    unpack = next((by for ending, by in UNPACK.items() if base_name(url).endswith(ending)), None)
    return Tar(unpack(file) if unpack else file, seekable=not (unpack or is_remote(url)))


def _ended(file: IO[bytes], url: str) -> None:
    """The shard came to an end too early: was it the command that fetched it that failed?"""
    try:
        file.close()
    except OSError as error:
        raise UserError(f"cannot be read to its end: {error}", where=url) from error


def _stream(url: str, buffer: int) -> IO[bytes]:
    if not is_remote(url):
        return open(url, "rb", buffering=buffer)
    from webdataset.gopen import gopen

    opened: IO[bytes] = gopen(url, "rb")
    return opened


def _samples(tar: Tar, start: int) -> Iterator[tuple[int, str, dict[str, bytes | None]]]:
    """(number, key, members) of the samples from `start` on; a member that stands twice is None."""
    number, current = -1, None
    members: dict[str, bytes | None] = {}
    for key, ending in _members(tar):
        if key != current:
            if current is not None and number >= start:
                yield number, current, members
            number, current, members = number + 1, key, {}
        if number >= start:
            members[ending] = None if ending in members else tar.content()
    if current is not None and number >= start:
        yield number, current, members


def _members(tar: Tar) -> Iterator[tuple[str, str]]:
    """(key, ending) of each file; hidden ones are not part of a sample."""
    for path in tar:
        folder, _, name = path.rpartition("/")
        if not name.startswith("."):
            base, dot, ending = name.partition(".")
            yield (f"{folder}/{base}" if folder else base), (dot + ending).lower()


def _sample(shard: Shard, number: int, key: str, members: dict[str, bytes | None]) -> Sample:
    where = Where(shard.url, number + 1)
    if twice := [ending for ending, data in members.items() if data is None]:
        return Sample(where, key, {}, f"has two members {twice[0]}")
    return Sample(where, key, {ending: data for ending, data in members.items() if data is not None})
