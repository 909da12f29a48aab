"""Reading files that a crash may have cut short: what can be read is read, and what cannot is noted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.report.format import cut

PICTURE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


def read_text(path: Path, notes: list[str]) -> str | None:
    """The file's text, or None where there is none. Bytes that are not UTF-8 are shown as replacement characters."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror or error}.")
        return None


def read_json(path: Path, kind: type, notes: list[str]) -> Any:
    """The JSON value of a file if it is a `kind`, else an empty `kind` and, unless the file is absent, a note."""
    text = read_text(path, notes)
    if text is None:
        return kind()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path.name} is not JSON ({cut(str(error), 120)}) and is left out.")
        return kind()
    if not isinstance(value, kind):
        notes.append(f"{path.name} should hold a JSON {kind.__name__}, holds {type(value).__name__}, and is left out.")
        return kind()
    return value


def read_lines(path: Path, notes: list[str]) -> Iterator[Mapping[str, Any]]:
    """Each JSON object of a file of one object a line.

    A last line that its writer never ended is noted as half-written, any other line that is not an object as broken.
    """
    broken: list[int] = []
    try:
        with path.open("rb") as file:
            for position, raw in enumerate(file, start=1):
                try:
                    value = json.loads(raw.decode("utf-8", errors="replace"))
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    yield value
                elif raw.strip() and not raw.endswith(b"\n"):
                    notes.append(f"{path.name} ends in a half-written line (line {position}), which is left out.")
                elif raw.strip():
                    broken.append(position)
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path.name} could not be read to its end: {error.strerror or error}.")
    if broken:
        lines = f"{len(broken)} lines are" if len(broken) > 1 else "one line is"
        notes.append(f"{path.name}: {lines} not a JSON object (first: line {broken[0]}) and left out.")


def real(value: Any) -> float | None:
    """A number as float (possibly not finite); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def integer(value: Any) -> int | None:
    """A whole number; None for anything else."""
    number = real(value)
    return int(number) if number is not None and math.isfinite(number) else None


def fraction(value: Any) -> float | None:
    """A number from 0 to 1; None for anything else."""
    number = real(value)
    return number if number is not None and 0 <= number <= 1 else None


def text(value: Any) -> str:
    """Any JSON value as a short text for people; an absent one is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return cut(", ".join(str(item) for item in value))
    return cut(json.dumps(value, ensure_ascii=False))


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; empty for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a JSON array; empty for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def reals(value: Any) -> dict[str, float]:
    """A JSON object's numbers; entries that are no number are left out."""
    return {key: number for key, item in mapping(value).items() if (number := real(item)) is not None}


def texts(value: Any) -> dict[str, str]:
    """A JSON object's values as short texts."""
    return {key: text(item) for key, item in mapping(value).items()}


def picture(value: Any) -> str:
    """A picture held in the text itself. Anything else, above all an address, is none: the page fetches nothing."""
    return value if isinstance(value, str) and PICTURE.fullmatch(value) else ""
