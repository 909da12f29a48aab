"""What a recipe says of a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sightline.recipe.part import Part, Positive

QUESTIONS = ("vqa", "textvqa", "vizwiz", "gqa", "nlvr")  # readers of questions and what people answered
READ_BY = {  # keys of a data set that some readers alone read
    "annotations": ("vqa",),
    "file_name": ("vqa", "textvqa", "gqa"),
    "target": ("vqa", "textvqa", "vizwiz"),
    "seed": ("vqa", "textvqa", "vizwiz"),
    "prompt": QUESTIONS,
}


class Streamed(Part):
    """Shards read one after another as they come, and nothing of them kept: for data beyond memory, or far away."""

    shuffle: Annotated[int, Field(ge=0)] = 2048  # how far a sample may move in its epoch; half as many are in memory
    sizes: str | None = None  # JSON, shard name -> samples; None: sizes.json beside local shards, else they are counted


class DataSpec(Part):
    """One data set. `reader` is a file's name in `data/readers/` (dashes for underscores)."""

    reader: str
    path: str | None = None  # file, folder, glob or hub id
    annotations: str | None = None  # vqa: the answers' file; None: a test split, whose questions have no answers
    images: str | None = None  # folder that relative image paths start from; None: the data file's own folder
    file_name: str | None = None  # vqa, textvqa, gqa: an image's file, e.g. "{image_id:012d}.jpg"; "none": no images
    target: Literal["most-common", "sampled"] = "most-common"  # which of several people's answers is learned to say...
    seed: int = 0  # ...where it is sampled by how many gave it: once a row, from this and the question's id
    prompt: str = "{question}"  # readers of questions: how one is asked, e.g. "{question} Answer in one word."
    split: str = "train"
    columns: dict[str, str] = {}  # our name -> the file's column name, where they differ
    where: dict[str, list[str]] = {}  # keep the rows whose field has one of these values, e.g. {type: [color]}
    limit: Positive | None = None
    broken: Literal["error", "skip"] = "error"  # a broken row stops the run, or is skipped and counted
    stream: Streamed | None = None  # webdataset only: stages read the shards as they come, without an index

    @model_validator(mode="after")
    def _read_by_its_reader(self) -> DataSpec:
        for key, readers in READ_BY.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.reader not in readers:
                raise ValueError(f"'{key}' is read by {', '.join(readers)}, and 'reader' is {self.reader}")
        if self.prompt.count("{question}") != 1:
            raise ValueError("'prompt' does not hold one {question}, where the question goes")
        return self

    @model_validator(mode="after")
    def _streams_whole(self) -> DataSpec:
        if self.stream and (self.reader != "webdataset" or not self.path):
            raise ValueError("'stream' reads tar shards: set 'reader' to webdataset, and 'path' to the shards")
        if self.stream and (self.where or self.limit):
            raise ValueError("a stream is read whole: leave 'where' and 'limit' out, or 'stream'")
        return self
