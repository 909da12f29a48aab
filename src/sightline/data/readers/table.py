"""Tables: JSON, JSON lines, CSV, TSV or Parquet with columns question, answer and image (or images).

A table with a column `messages` or `conversations` is read as those readers do; one with `texts`, a list of
``{user, assistant}``, as The Cauldron (arXiv 2405.02246) and FineVision have it: the images stand before the first; one
with `answers`, what several people said, as VQA data sets on the hub have it.

Parquet's image structs ``{bytes, path}`` are held in memory; for more images than that, the hub reader maps them from
disk.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.data.asked import most_common, people_said
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_records, mapping
from sightline.data.readers import messages, sharegpt
from sightline.data.record import answered, column, extras, images_of, numbered
from sightline.data.row import Row, Turn, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

JSON = (".json", ".jsonl", ".ndjson")


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every row of the files, read by their endings."""
    for path in data_files(spec, name):
        if path.suffix in JSON:
            yield from json_records(path)
        elif path.suffix in (".csv", ".tsv"):
            yield from numbered(_csv(path), str(path))
        elif path.suffix == ".parquet":
            yield from numbered(_parquet(path), str(path))
        else:
            raise UserError(
                f"is no table that is known by its ending '{path.suffix}'",
                where=str(path),
                fix="known: .json, .jsonl, .csv, .tsv, .parquet",
            )


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """One question and answer, or a conversation where the table has one."""
    record = mapping(record, place)
    if column(record, "messages", spec) is not None:
        return messages.row(record, place, spec)
    if column(record, "conversations", spec) is not None:
        return sharegpt.row(record, place, spec)
    if column(record, "texts", spec) is not None:
        return _paired(record, place, spec)
    if column(record, "answers", spec) is not None:
        return _answered_by_people(record, place, spec)
    for needed in ("answer", "question"):
        wanted = spec.columns.get(needed, needed)
        if wanted not in record and (needed == "answer" or not images_of(record, place, spec)):
            raise RowError(
                f"has no column '{wanted}' (it has: {', '.join(map(str, record))})",
                place,
                fix=f"map it, e.g. columns: {{{needed}: <the file's name for it>}}",
            )
    fields = extras(record, ("question", "answer", "image", "images"), spec)
    question, answer = column(record, "question", spec), column(record, "answer", spec)
    return answered(question, answer, images_of(record, place, spec), place, fields)


def _answered_by_people(record: dict[str, Any], place: Where, spec: DataSpec) -> Row:
    """`answers` is a list of texts or of objects with `answer`; `answer`, where there is one, is what is learned."""
    answers = people_said(column(record, "answers", spec), place)
    chosen = column(record, "answer", spec) or record.get("multiple_choice_answer") or most_common(answers)
    fields = extras(record, ("question", "answer", "answers", "image", "images"), spec)
    made = answered(column(record, "question", spec), chosen, images_of(record, place, spec), place, fields)
    return replace(made, answers=answers)


def _paired(record: dict[str, Any], place: Where, spec: DataSpec) -> Row:
    images = images_of(record, place, spec)
    turns: list[Turn] = []
    for number, pair in enumerate(column(record, "texts", spec)):
        if not isinstance(pair, dict) or not {"user", "assistant"} <= pair.keys():
            raise RowError(f"entry {number + 1} of 'texts' has no 'user' and 'assistant'", place)
        turns += answered(pair["user"], pair["assistant"], images if number == 0 else (), place, {}).turns
    return Row(place, tuple(turns), images, extras(record, ("texts", "image", "images"), spec))


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        if not reader.fieldnames:
            raise UserError("is empty", where=str(path))
        for number, record in enumerate(reader, start=1):
            if None in record or None in record.values():
                raise UserError(
                    f"row {number} has more or fewer cells than the {len(reader.fieldnames)} columns of the header",
                    where=str(path),
                    fix='put text that holds the separator into "quotes"',
                )
            yield {key: value for key, value in record.items() if value != ""}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowInvalid

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise UserError(f"is not a Parquet file: {error}", where=str(path)) from error
    for batch in file.iter_batches(batch_size=1024):
        yield from batch.to_pylist()
