"""write_shards: what is read from the shards is what was written, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.dataset import read_rows
from sightline.data.encode import RowError
from sightline.data.images import load_image
from sightline.data.readers.webdataset import row_of
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.data.shard_writer import write_shards
from sightline.data.shards import find_shards, read_shard
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    refs = []
    for number, ending in enumerate(("png", "jpg")):
        path = tmp_path / f"{number}.{ending}"
        Image.new("RGB", (8, 6), (90 * number, 30, 200)).save(path)
        refs.append(ImageRef(str(path), path))
    asked = Turn("user", (Picture(), "which is it, ", Picture(), " or neither ?"))
    two = Row(Where("rows", 1), (Turn("system", ("short",)), asked, Turn("assistant", ("neither",))), tuple(refs))
    bare = Row(Where("rows", 2), (Turn("user", ("hello",)), Turn("assistant", ("hi",))), (), {"type": "talk"})
    one = Row(Where("rows", 3), (Turn("user", (Picture(),)), Turn("assistant", ("grün",))), (refs[1],))
    return [two, bare, one]


def test_rows_come_back_as_they_were(rows: list[Row], tmp_path: Path) -> None:
    sizes = write_shards(rows, tmp_path / "shards" / "rows-%02d.tar", per_shard=2)
    assert sizes == {"rows-00.tar": 2, "rows-01.tar": 1} == json.loads((tmp_path / "shards/sizes.json").read_text())
    spec = DataSpec(reader="webdataset", path=str(tmp_path / "shards" / "rows-{00..01}.tar"), stream={})
    streamed = [row_of(each, spec) for shard in find_shards(spec, "mine") for each in read_shard(shard)]
    for found in (streamed, list(read_rows(spec, "mine"))):
        assert [row.turns for row in found] == [row.turns for row in rows]
        assert [dict(row.fields) for row in found] == [dict(row.fields) for row in rows]
        for old, new in zip(rows, found, strict=True):
            pixels = [[load_image(ref, row.where).tobytes() for ref in row.images] for row in (old, new)]
            assert pixels[0] == pixels[1]
    assert streamed[0].images[1].key == streamed[2].images[0].key  # the same image in two samples


def test_what_cannot_be_written(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names one file"):
        write_shards(rows, tmp_path / "rows.tar")
    marked = Row(Where("rows", 9), (Turn("user", ("an <image> tag",)), Turn("assistant", ("yes",))))
    with pytest.raises(RowError, match="rows row 9: a text holds"):
        write_shards([marked], tmp_path / "rows-%d.tar")
    (tmp_path / "0.png").write_bytes(b"none")
    with pytest.raises(RowError, match=r"0\.png is broken"):
        write_shards(rows, tmp_path / "rows-%d.tar")
