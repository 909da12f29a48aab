"""GGUF files whose header names special tokens that do not exist.

llama.cpp writes "no such token" as -1, which older converters stored in an unsigned field as 4294967295; transformers
looks that number up in the vocabulary. Such a file is read from a mended copy.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.errors import UserError

NO_TOKEN = 2**32 - 1
SPECIAL = tuple(
    f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "padding", "seperator", "separator")
)


@contextmanager
def readable(source: str, gguf_file: str, where: str) -> Iterator[tuple[str, bool]]:
    """A folder or hub id that transformers reads `gguf_file` from, and whether it had to be mended.

    Where it was, the token that stands in for the missing ones is token 0. Raises UserError without the gguf package.
    """
    path = Path(source).expanduser() / gguf_file
    if not path.is_file():
        yield source, False  # a hub id: as it is
        return
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            f"{gguf_file} needs the gguf package", where=where, fix="pip install 'sightline[gguf]'"
        ) from error
    if not any(value[0] == NO_TOKEN for value in _special_ids(GGUFReader(path))):
        yield source, False
        return
    with tempfile.TemporaryDirectory(prefix="sightline-gguf-") as folder:
        copy = Path(folder) / gguf_file
        shutil.copyfile(path, copy)
        writable = GGUFReader(copy, "r+")
        for value in _special_ids(writable):
            if value[0] == NO_TOKEN:
                value[0] = 0
        writable.data.flush()
        yield folder, True


def _special_ids(reader: Any) -> list[Any]:
    """The one-element arrays that hold the ids of special tokens."""
    fields = [reader.fields[name] for name in SPECIAL if name in reader.fields]
    return [field.parts[field.data[0]] for field in fields]
