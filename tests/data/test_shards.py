"""Shards: every sample of a tar in order, or the reason why it is broken; nothing lost, nothing twice."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from sightline.data.encode import RowError
from sightline.data.readers.webdataset import row_of
from sightline.data.shards import Shard, base_name, find_shards, read_shard
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec, Streamed

BLOCKS = 5  # of 512 bytes that a sample of `numbered` takes: two headers, and 1 + 2 of content


def write(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A tar with `samples` (key -> ending -> content)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for key, members in samples.items():
            for ending, content in members.items():
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def numbered(first: int, count: int) -> dict[str, dict[str, bytes]]:
    return {f"{n:05}": {".txt": f"text {n}".encode(), ".bin": bytes(900)} for n in range(first, first + count)}


def spec(path: object, **more: object) -> DataSpec:
    sizes = more.pop("sizes", None)
    return DataSpec(reader="webdataset", path=str(path), stream=Streamed(sizes=sizes and str(sizes)), **more)


def keys(shard: Shard, start: int = 0) -> list[str]:
    return [sample.key for sample in read_shard(shard, start)]


def test_local_shards_are_counted_by_their_headers(tmp_path: Path) -> None:
    write(tmp_path / "a-00.tar", numbered(0, 5))
    write(tmp_path / "a-01.tar", {})
    write(tmp_path / "a-02.tar", numbered(5, 3))
    found = find_shards(spec(tmp_path / "a-{00..02}.tar"), "mine")
    assert [shard.samples for shard in found] == [5, 0, 3]
    assert [key for shard in found for key in keys(shard)] == list(numbered(0, 8))


@pytest.mark.parametrize("start", range(6))
def test_reading_starts_at_any_sample(tmp_path: Path, start: int) -> None:
    shard = Shard(str(write(tmp_path / "a.tar", numbered(0, 5))), 5)
    assert keys(shard, start) == list(numbered(0, 5))[start:]
    piped = Shard(f"pipe:cat {tmp_path}/a.tar", 5)
    assert keys(piped, start) == keys(shard, start)
    packed = Shard(str(write(tmp_path / "a.tar.gz", numbered(0, 5))), 5)
    assert keys(packed, start) == keys(shard, start)


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = numbered(0, 7) | {"deep/er.name": {".0.JPG": b"x", ".1.jpg": b"y", ".json": b"{}"}}
    path = write(tmp_path / "a.tar", samples)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = list(read_shard(Shard(str(path), 8)))
    assert [each["__key__"] for each in theirs] == [each.key for each in ours]
    for one, other in zip(theirs, ours, strict=True):
        assert {f".{ending}": data for ending, data in one.items() if ending[0] != "_"} == other.members


def test_a_sizes_file_is_believed_and_checked_as_it_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a-0.tar", numbered(0, 4))
    write(tmp_path / "a-1.tar", numbered(4, 4))
    (tmp_path / "sizes.json").write_text(json.dumps({"a-0.tar": 3, "a-1.tar": 6}))
    fewer, more = find_shards(spec(tmp_path / "a-*.tar"), "mine")
    with pytest.raises(UserError, match="more than the 3 samples that were counted"):
        keys(fewer)
    behind = [sample.broken for sample in read_shard(more)][4:]
    assert behind == ["its shard has fewer samples than were counted"] * 2
    (tmp_path / "sizes.json").write_text(json.dumps({"a-0.tar": 3}))
    with pytest.raises(UserError, match=r"no number of samples for shard a-1\.tar"):
        find_shards(spec(tmp_path / "a-*.tar"), "mine")


def test_remote_shards_need_their_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a-0.tar", numbered(0, 4))
    url = f"pipe:cat {tmp_path}/a-{{0..0}}.tar"
    with pytest.raises(UserError, match="is not known") as error:
        find_shards(spec(url), "mine")
    assert "data.mine.stream.sizes" in str(error.value) and "a-0.tar" in str(error.value)
    (tmp_path / "counts.json").write_text('{"a-0.tar": 4}')
    (shard,) = find_shards(spec(url, sizes=tmp_path / "counts.json"), "mine")
    assert keys(shard) == list(numbered(0, 4))


def test_names_of_shards() -> None:
    assert base_name("pipe:aws s3 cp s3://bucket/some/pairs-000.tar -") == "pairs-000.tar"
    assert base_name("https://host/x/pairs-001.tar?version=3") == "pairs-001.tar"
    assert base_name("some/where/a.tar.gz") == "a.tar.gz"


def test_a_missing_shard_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path / "a-0.tar", numbered(0, 4))
    with pytest.raises(UserError, match=r"no file .*a-1\.tar"):
        find_shards(spec(tmp_path / "a-{0..1}.tar"), "mine")
    with pytest.raises(UserError, match=r"shard cannot be read: .*No such file"):
        keys(Shard(str(tmp_path / "gone.tar"), 4))
    with pytest.raises(UserError, match=r"exit|is not a tar file"):
        keys(Shard(f"pipe:cat {tmp_path}/gone.tar 2>/dev/null", 4))
    with pytest.raises(UserError, match="cannot be read to its end"):
        keys(Shard(f"pipe:head -c 3000 {tmp_path}/a-0.tar; exit 3", 4))
    (tmp_path / "no.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="is not a tar file"):
        find_shards(spec(tmp_path / "no.tar"), "mine")


def test_a_shard_that_is_cut_off(tmp_path: Path) -> None:
    """Samples before the cut are read; those behind it come as broken ones, as many as were counted."""
    whole = write(tmp_path / "a.tar", numbered(0, 5)).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: BLOCKS * 512 * 2 + 3 * 512 + 100])
    with pytest.raises(UserError, match="is cut off in sample 3"):
        find_shards(spec(tmp_path / "a.tar"), "mine")
    (shard,) = find_shards(spec(tmp_path / "a.tar", broken="skip"), "mine")
    assert shard.samples == 3
    for counted in (3, 5):
        read = list(read_shard(Shard(shard.url, counted)))
        assert [sample.broken is None for sample in read] == [True, True] + [False] * (counted - 2)
        assert "cut off" in str(read[-1].broken)
    (tmp_path / "a.tar").write_bytes(whole[: BLOCKS * 512 * 2])  # at a sample's edge, without the two blocks of an end
    read = list(read_shard(Shard(shard.url, 5)))
    assert [sample.broken is None for sample in read] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({".png": b"x"}, "has no .json and no .txt"),
        ({".png": b"x", ".txt": b"\xff\xfe"}, "is not UTF-8"),
        ({".png": b"x", ".json": b"{"}, "is not JSON"),
        ({".png": b"x", ".json": b'{"caption": ""}'}, "every assistant turn is empty"),
    ],
)
def test_a_broken_sample_is_told_with_shard_and_key(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    path = write(tmp_path / "a.tar", {"good": {".txt": b"fine"}, "bad": members})
    good, bad = read_shard(Shard(str(path), 2))
    assert row_of(good, spec(path)).answer == "fine"
    with pytest.raises(RowError, match=reason) as error:
        row_of(bad, spec(path))
    assert str(error.value).startswith(f"{path} row 2: sample 'bad': ")


def test_a_member_that_stands_twice_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for content in (b"one", b"two"):
            member = tarfile.TarInfo("same.txt")
            member.size = 3
            tar.addfile(member, io.BytesIO(content))
    (sample,) = read_shard(Shard(str(path), 1))
    assert sample.broken == "has two members .txt"
