"""What a recipe says of a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sightline.recipe.part import Part, Positive


class Streamed(Part):
    """Shards read one after another as they come, and nothing of them kept: for data beyond memory, or far away."""

    shuffle: Annotated[int, Field(ge=0)] = 2048  # how far a sample may move in its epoch; half as many are in memory
    sizes: str | None = None  # JSON, shard name -> samples; None: sizes.json beside local shards, else they are counted


class DataSpec(Part):
    """One data set. `reader` is a file's name in `data/readers/` (dashes for underscores)."""

    reader: str
    path: str | None = None  # file, folder, glob or hub id
    images: str | None = None  # folder that relative image paths start from; None: the data file's own folder
    split: str = "train"
    columns: dict[str, str] = {}  # our name -> the file's column name, where they differ
    where: dict[str, list[str]] = {}  # keep the rows whose field has one of these values, e.g. {type: [color]}
    limit: Positive | None = None
    broken: Literal["error", "skip"] = "error"  # a broken row stops the run, or is skipped and counted
    stream: Streamed | None = None  # webdataset only: stages read the shards as they come, without an index

    @model_validator(mode="after")
    def _streams_whole(self) -> DataSpec:
        if self.stream and (self.reader != "webdataset" or not self.path):
            raise ValueError("'stream' reads tar shards: set 'reader' to webdataset, and 'path' to the shards")
        if self.stream and (self.where or self.limit):
            raise ValueError("a stream is read whole: leave 'where' and 'limit' out, or 'stream'")
        return self
