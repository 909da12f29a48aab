"""GGUF headers that name a token which does not exist are mended in a copy; others are read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.models.gguf_file import NO_TOKEN, SPECIAL, readable

STORIES = Path(__file__).parents[3] / "shared" / "data" / "weights" / "stories260K.gguf"
gguf = pytest.importorskip("gguf")


def test_faulty_header_is_mended_in_a_copy_and_a_good_one_left_alone() -> None:
    if not STORIES.is_file():
        pytest.skip(f"no {STORIES.name}")
    before = STORIES.read_bytes()
    with readable(str(STORIES.parent), STORIES.name, "here") as (folder, mended):
        assert mended and Path(folder) != STORIES.parent
        reader = gguf.GGUFReader(Path(folder) / STORIES.name)
        assert all(reader.fields[name].contents() != NO_TOKEN for name in SPECIAL if name in reader.fields)
        assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 2
        with readable(folder, STORIES.name, "here") as (again, mended_again):
            assert again == folder and not mended_again
    assert STORIES.read_bytes() == before and not Path(folder).exists()


def test_hub_id_is_passed_on() -> None:
    with readable("someone/model", "model.gguf", "here") as (source, mended):
        assert source == "someone/model" and not mended
