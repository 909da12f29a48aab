"""read_rows: a recipe's data set as rows, whatever the file format, with every broken row told or counted."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sightline.data import readers
from sightline.data.encode import RowError, validate
from sightline.data.row import Row, Skipped
from sightline.errors import UserError, nearest
from sightline.recipe.schema import DataSpec


@dataclass(frozen=True, slots=True)
class Rows:
    """A data set: its rows (images not yet decoded), and the rows left out."""

    rows: Sequence[Row]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def read_rows(spec: DataSpec, name: str) -> Rows:
    """Every row of data set `name`, in the file's order.

    Images are looked for here and decoded only when they are needed (`audit` decodes them all).

    Raises:
        UserError: the reader is unknown, or the data as a whole cannot be read, or no usable row is in it.
        RowError: a row is broken and `spec.broken` is "error".
    """
    reader = reader_named(spec.reader, name)
    kept: list[Row] = []
    skipped: list[Skipped] = []
    known: set[str] = set()
    for place, record in reader.records(spec, name):
        if spec.limit is not None and len(kept) == spec.limit:
            break
        try:
            row = reader.row(record, place, spec)
            validate(row, answered=not getattr(reader, "UNANSWERED", False) or row.answered)
        except RowError as error:
            if spec.broken == "error":
                raise
            skipped.append(Skipped(error.place, error.what))
        else:
            known |= row.fields.keys()
            if all(row.fields.get(field) in values for field, values in spec.where.items()):
                kept.append(row)
    if unknown := sorted(spec.where.keys() - known):
        raise UserError(
            f"no row has a field '{unknown[0]}'", where=f"data.{name}.where", fix=nearest(unknown[0], known)
        )
    if not kept:
        reason = f"all {len(skipped)} rows are broken; the first: {skipped[0].reason}" if skipped else "it has no rows"
        reason = "no row is as 'where' wants it" if known and spec.where else reason
        raise UserError(f"{reason}", where=f"data set '{name}' ({spec.path or spec.reader})")
    return Rows(tuple(kept), tuple(skipped))


def reader_names() -> list[str]:
    """The names of all readers, as recipes write them."""
    folder = Path(readers.__file__).parent
    return sorted(path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py"))


def reader_named(reader: str, name: str) -> ModuleType:
    """The module of `reader`. Raises UserError with the nearest name where there is none."""
    known = reader_names()
    if reader.replace("_", "-") not in known:
        raise UserError(f"no reader is called '{reader}'", where=f"data.{name}.reader", fix=nearest(reader, known))
    return importlib.import_module(f"{readers.__name__}.{reader.replace('-', '_')}")
