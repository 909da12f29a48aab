"""Readers: every format ends in the same rows, and every fault is told with file and row."""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from sightline.data.audit import audit
from sightline.data.dataset import Rows, read_rows, reader_names
from sightline.data.encode import RowError
from sightline.data.images import load_image
from sightline.data.row import Picture, Row
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec
from tests.data.made import picture

COLORS = ("red", "blue")


def encoded(color: str) -> bytes:
    buffer = io.BytesIO()
    picture(color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for color in COLORS:
        (tmp_path / f"{color}.png").write_bytes(encoded(color))
    return tmp_path


def dumped(path: Path, value: object) -> str:
    lines = isinstance(value, list) and path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
    return str(path)


def read(reader: str, path: object = None, **more) -> Rows:
    return read_rows(DataSpec(reader=reader, path=None if path is None else str(path), **more), "mine")


def shape(row: Row) -> list[tuple[str, str]]:
    """Roles and texts, a picture written as "@"."""
    return [
        (turn.role, "".join("@" if isinstance(part, Picture) else part for part in turn.parts)) for turn in row.turns
    ]


ASKED = [("user", "@what color?"), ("assistant", "red")]


# --- every format, the same rows -----------------------------------------------------------------------------------


def make_llava(folder: Path) -> dict:
    rows = [
        {
            "image": f"{color}.png",
            "conversations": [
                {"from": "human", "value": "<image>what color?"},
                {"from": "gpt", "value": color},
            ],
        }
        for color in COLORS
    ]
    return {"path": dumped(folder / "llava.json", rows)}


def make_messages(folder: Path) -> dict:
    rows = [
        {
            "messages": [
                {"role": "user", "content": [inline, {"type": "text", "text": "what color?"}]},
                {"role": "assistant", "content": "red" if number == 0 else "blue"},
            ],
            **beside,
        }
        for number, (inline, beside) in enumerate(
            [
                ({"type": "image"}, {"images": ["red.png"]}),
                (
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64," + base64.b64encode(encoded("blue")).decode()},
                    },
                    {},
                ),
            ]
        )
    ]
    return {"path": dumped(folder / "messages.jsonl", rows)}


def make_sharegpt(folder: Path) -> dict:
    rows = [
        {
            "conversations": [
                {"from": "user", "value": "<image>what color?"},
                {"from": "assistant", "value": color},
            ],
            "images": [f"{color}.png"],
        }
        for color in COLORS
    ]
    return {"path": dumped(folder / "sharegpt.json", rows)}


def make_alpaca(folder: Path) -> dict:
    rows = [{"instruction": "what color?", "input": "", "output": c, "images": [f"{c}.png"]} for c in COLORS]
    return {"path": dumped(folder / "alpaca.json", rows)}


def make_csv(folder: Path) -> dict:
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "question", "answer"])
        writer.writerows([f"{color}.png", "what color?", color] for color in COLORS)
    return {"reader": "table", "path": folder / "table.csv", "columns": {"image": "picture"}}


def make_parquet(folder: Path) -> dict:
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": encoded("red"), "path": None}, "question": "what color?", "answer": "red"},
        {"image": {"bytes": None, "path": "blue.png"}, "question": "what color?", "answer": "blue"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "table.parquet")
    return {"reader": "table", "path": folder / "table.parquet"}


def make_table_of_messages(folder: Path) -> dict:
    return {"reader": "table", "path": make_messages(folder)["path"]}


def make_metadata(folder: Path) -> dict:
    rows = [{"file_name": f"{color}.png", "question": "what color?", "text": color} for color in COLORS]
    dumped(folder / "metadata.jsonl", rows)
    return {"reader": "image-folder", "path": folder}


def make_webdataset(folder: Path) -> dict:
    for number, color in enumerate(COLORS):
        with tarfile.open(folder / f"shard-{number:03}.tar", "w") as tar:
            said = json.dumps({"question": "what color?", "answer": color}).encode()
            for name, data in ((f"{number:04}.png", encoded(color)), (f"{number:04}.json", said)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return {"path": folder / "shard-{000..001}.tar"}


def _hub_rows(folder: Path):
    from datasets import Dataset, Features, Image, Value

    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    columns = {
        "image": [str(folder / "red.png"), {"bytes": encoded("blue"), "path": None}],
        "question": ["what color?"] * 2,
        "answer": list(COLORS),
    }
    return Dataset.from_dict(columns, features=features)


def make_hub_saved(folder: Path) -> dict:
    _hub_rows(folder).save_to_disk(str(folder / "saved"))
    return {"reader": "hub", "path": folder / "saved"}


def make_hub_parquet(folder: Path) -> dict:
    (folder / "hub").mkdir()
    _hub_rows(folder).to_parquet(str(folder / "hub" / "train.parquet"))
    return {"reader": "hub", "path": folder / "hub"}


MAKERS = {
    "llava": make_llava,
    "messages": make_messages,
    "sharegpt": make_sharegpt,
    "alpaca": make_alpaca,
    "csv": make_csv,
    "parquet": make_parquet,
    "table of messages": make_table_of_messages,
    "image-folder": make_metadata,
    "webdataset": make_webdataset,
    "hub saved": make_hub_saved,
    "hub parquet": make_hub_parquet,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_gives_the_same_rows(name: str, folder: Path) -> None:
    """Two rows, each with its own picture, decoded to the last pixel."""
    made = {"reader": name, **MAKERS[name](folder)}
    rows = read(made.pop("reader"), **made).rows
    assert len(rows) == 2
    for row, color in zip(rows, COLORS, strict=True):
        assert shape(row) == [("user", "@what color?"), ("assistant", color)]
        assert load_image(row.images[0], row.where).tobytes() == picture(color).tobytes()
    assert rows[0].images[0].key != rows[1].images[0].key
    assert [row.where.row for row in rows] == ([1, 1] if name == "webdataset" else [1, 2])
    assert len(read_rows(DataSpec(reader=made.get("reader", _reader(name)), limit=1, **_text(made)), "mine")) == 1


def _reader(name: str) -> str:
    return {"csv": "table", "parquet": "table", "table of messages": "table"}.get(name, name.split()[0])


def _text(made: dict) -> dict:
    return {key: str(value) if isinstance(value, Path) else value for key, value in made.items()}


def test_captions_beside_images(folder: Path) -> None:
    """photo.txt beside photo.png, also in folders below."""
    (folder / "red.txt").write_text("a red disc\n")
    (folder / "deep").mkdir()
    (folder / "blue.png").rename(folder / "deep" / "blue.png")
    (folder / "deep" / "blue.txt").write_text("a blue disc")
    rows = read("image-folder", folder).rows
    assert [shape(row) for row in rows] == [
        [("user", "@"), ("assistant", "a blue disc")],
        [("user", "@"), ("assistant", "a red disc")],
    ]
    (folder / "red.txt").unlink()
    with pytest.raises(RowError, match=r"row 2: red.png has no caption red.txt"):
        read("image-folder", folder)


def test_webdataset_with_captions_and_several_images(folder: Path) -> None:
    """Members are read from their place in the tar; names may lie in folders."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in (("x/1.0.png", encoded("red")), ("x/1.1.png", encoded("blue")), ("x/1.txt", b"two discs")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (row,) = read("webdataset", folder / "*.tar").rows
    assert shape(row) == [("user", "@@"), ("assistant", "two discs")]
    assert load_image(row.images[1], row.where).tobytes() == picture("blue").tobytes()
    (folder / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="not an uncompressed tar"):
        read("webdataset", folder / "b.tar")


def test_hub_lists_of_images_and_missing_ones(folder: Path) -> None:
    """A list column, and a row without an image."""
    from datasets import Dataset, Features, Image, List, Value

    one = str(folder / "red.png")
    features = Features({"images": List(Image()), "question": Value("string"), "answer": Value("string")})
    data = {"images": [[one, one], []], "question": ["both?", "none?"], "answer": ["yes", "no"]}
    Dataset.from_dict(data, features=features).save_to_disk(str(folder / "saved"))
    rows = read("hub", folder / "saved").rows
    assert [shape(row)[0][1] for row in rows] == ["@@both?", "none?"]
    with pytest.raises(UserError, match="cannot be loaded"):
        read("hub", folder / "nothing")


def test_several_turns_images_systems_and_fields(folder: Path) -> None:
    """What else rows hold: a system column, history, several images, further columns."""
    rows = [
        {
            "id": 7,
            "system": "be brief",
            "images": ["red.png", "blue.png"],
            "conversations": [
                {"from": "human", "value": "<image>this?"},
                {"from": "gpt", "value": "red"},
                {"from": "human", "value": "that<image>?"},
                {"from": "gpt", "value": "blue"},
            ],
        }
    ]
    (row,) = read("sharegpt", dumped(folder / "s.json", rows)).rows
    assert shape(row) == [
        ("system", "be brief"),
        ("user", "@this?"),
        ("assistant", "red"),
        ("user", "that@?"),
        ("assistant", "blue"),
    ]
    assert row.fields == {"id": "7"}
    told = [{"instruction": "and?", "input": "x", "output": "y", "history": [["a", "b"]], "system": "s"}]
    (row,) = read("alpaca", dumped(folder / "a.json", told)).rows
    assert [text for _, text in shape(row)] == ["s", "a", "b", "and?\nx", "y"]


def test_tables_of_pairs(folder: Path) -> None:
    """The Cauldron's and FineVision's column of question and answer pairs; the images stand before the first."""
    rows = [{"images": ["red.png", "blue.png"], "texts": [{"user": "a?", "assistant": "b"}] * 2, "source": "x"}]
    (row,) = read("table", dumped(folder / "t.json", rows)).rows
    assert shape(row) == [("user", "@@a?"), ("assistant", "b"), ("user", "a?"), ("assistant", "b")]
    assert row.fields == {"source": "x"}
    with pytest.raises(RowError, match="entry 1 of 'texts'"):
        read("table", dumped(folder / "u.json", [{"texts": ["a?"]}]))


# --- faults ------------------------------------------------------------------------------------------------------


def good() -> dict:
    talk = [{"from": "human", "value": "<image>what color?"}, {"from": "gpt", "value": "red"}]
    return {"image": "red.png", "conversations": talk}


def changed(**more) -> dict:
    return good() | more


FAULTS = {
    "red2.png does not exist": changed(image="red2.png"),
    "0 images but 1 image placeholders": {"conversations": good()["conversations"]},
    "2 images but 1 image placeholders": changed(image=["red.png", "blue.png"]),
    "no assistant turn": changed(conversations=good()["conversations"][:1]),
    "unknown role 'robot'": changed(conversations=[{"from": "robot", "value": "hi"}]),
    "turn 1 has no 'from' and 'value'": changed(conversations=[{"role": "user"}]),
    "not a list of turns": changed(conversations="hello"),
    "is a number, not an object": 5,
    "images are not downloaded": changed(image="https://example.org/a.png"),
    "text is None": changed(conversations=[{"from": "gpt", "value": None}]),
    "not as a path or bytes": changed(image={"size": 3}),
}


@pytest.mark.parametrize("message", FAULTS)
def test_broken_rows_are_named_or_counted(message: str, folder: Path) -> None:
    """The second of three rows is broken: an error with file and row, or skipped with its reason."""
    path = dumped(folder / "data.json", [good(), FAULTS[message], good()])
    with pytest.raises(RowError, match=rf"data.json row 2: .*{message}"):
        read("llava", path)
    rows = read("llava", path, broken="skip")
    assert [row.where.row for row in rows] == [1, 3]
    assert [(skipped.where.row, message in skipped.reason) for skipped in rows.skipped] == [(2, True)]


FILES = {
    "is empty": " \n",
    "is not JSON: Expecting ',' delimiter at line 2, column 1": '[{"a": 1}\n{"b": 2}]',
    "holds one object, not a list": '{"a": 1}',
    "holds an empty list": "[]",
    "name it .jsonl": '{"a": 1}\n{"b": 2}\n',
    "is not UTF-8": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("message", FILES)
def test_files_that_are_no_data_are_told(message: str, folder: Path) -> None:
    text = FILES[message]
    (folder / "data.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"data.json: .*{message}"):
        read("llava", folder / "data.json", broken="skip")


def test_files_that_are_not_there_are_told(folder: Path) -> None:
    dumped(folder / "train.json", [good()])
    with pytest.raises(UserError, match=r"no file .*trian.json; did you mean 'train.json'"):
        read("llava", folder / "trian.json")
    with pytest.raises(UserError, match="is a folder"):
        read("llava", folder)
    with pytest.raises(UserError, match="needs a path"):
        read("llava")
    with pytest.raises(UserError, match="does not exist"):
        read("image-folder", folder / "pictures")
    with pytest.raises(UserError, match=r"no reader is called 'lava'\n  fix: did you mean 'llava'"):
        read("lava", folder)
    with pytest.raises(UserError, match=r"all 1 rows are broken; the first: .*red.gif does not exist"):
        read("llava", dumped(folder / "bad.json", [changed(image="red.gif")]), broken="skip")


def test_tables_without_the_columns_are_told(folder: Path) -> None:
    path = dumped(folder / "t.jsonl", [{"q": "what?", "answer": "red"}])
    with pytest.raises(RowError, match=r"t.jsonl row 1: has no column 'question' \(it has: q, answer\)"):
        read("table", path)
    assert len(read("table", path, columns={"question": "q"})) == 1
    (folder / "t.csv").write_text('question,answer\nwhat, now?,red\n"what, now?",red\n')
    with pytest.raises(UserError, match="row 1 has more or fewer cells than the 2 columns"):
        read("table", folder / "t.csv")
    (folder / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        read("table", folder / "t.parquet")


def test_audit_opens_every_image_once(folder: Path) -> None:
    """A truncated image passes the reader, and not the audit."""
    (folder / "cut.png").write_bytes(encoded("red")[:60])
    rows = read("llava", dumped(folder / "d.json", [good(), changed(image="cut.png"), good()]))
    with pytest.raises(RowError, match=r"d.json row 2: image .*cut.png is"):
        audit(rows)
    seen = audit(rows, "skip")
    assert (len(seen.rows), seen.images, seen.opened) == (2, 2, 2)
    assert [skipped.where.row for skipped in seen.rows.skipped] == [2]
    assert audit(rows, seconds=0.0).opened == 0


# --- real data ---------------------------------------------------------------------------------------------------


def test_easy_vqa() -> None:
    """The package's own counts; every kind of question has its own kind of answer."""
    pytest.importorskip("easy_vqa")
    rows = read("easy-vqa", split="test")
    assert len(rows) == 9673 and len({row.images[0].key for row in rows}) == 1000
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.fields["type"], set()).add(row.answer)
    assert answers["presence"] == answers["absence"] == {"yes", "no"}
    assert answers["shape"] == {"circle", "rectangle", "triangle"} and len(answers["color"]) == 8
    first, rest = read("easy-vqa", split="test[:100]"), read("easy-vqa", split="test[100:]")
    assert len(first) + len(rest) == 9673
    assert not {row.images[0].key for row in first} & {row.images[0].key for row in rest}
    with pytest.raises(UserError, match="no split 'valid'"):
        read("easy-vqa", split="valid")


def test_easy_vqa_captions() -> None:
    """Whatever a picture's questions deny, its caption does not say; whatever is asked by name is what it is called."""
    pytest.importorskip("easy_vqa")
    rows = read("easy-vqa-captions", split="test")
    assert len(rows) == 880 and len({row.images[0].key for row in rows}) == 880
    assert len({row.answer for row in rows}) == 8 * 3
    captions = {row.images[0].key: row.answer.split() for row in rows}
    for row in read("easy-vqa", split="test"):
        if (words := captions.get(row.images[0].key)) and row.fields["type"] in ("color", "shape"):
            assert row.answer in words
    assert (
        len(read("easy-vqa-captions", split="train[:3800]")) + len(read("easy-vqa-captions", split="train[3800:]"))
        == 3542
    )


def test_coco_captions(shared: Path) -> None:
    """Five captions a photo, side by side, and every photo decodes."""
    coco = shared / "coco_tiny"
    rows = read("coco", coco / "annotations" / "captions_val2017.json", images=str(coco / "val2017"))
    seen = audit(rows)
    assert seen.images == seen.opened == 50 and len(rows) >= 250
    keys = [row.images[0].key for row in rows]
    assert sum(a != b for a, b in pairwise(keys)) == 49
    with pytest.raises(UserError, match="without 'caption'"):
        read("coco", coco / "annotations" / "instances_val2017.json", images=str(coco / "val2017"))


def test_mllm_and_alpaca_demo(shared: Path) -> None:
    """The shapes that users have."""
    rows = read("messages", shared / "text" / "mllm_demo.json").rows
    assert len(rows) == 6 and shape(rows[0])[2] == ("user", "What are they doing?@")
    assert audit(Rows(rows)).images == 3
    assert len(read("alpaca", shared / "text" / "alpaca_en_demo.json")) == 999


def test_readers_are_found_by_file_name() -> None:
    """Each has the two functions that `readers/__init__.py` promises."""
    from sightline.data.dataset import reader_named

    assert {"llava", "easy-vqa", "image-folder", "webdataset"} <= set(reader_names())
    for name in reader_names():
        module = reader_named(name, "mine")
        assert callable(module.records) and callable(module.row) and module.__doc__
