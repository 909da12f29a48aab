"""`sightline check`: what can be known before step 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import AutoConfig

from sightline.commands import preflight
from sightline.commands.check import marked
from sightline.commands.preflight import look
from sightline.data.shard_writer import write_shards
from sightline.plan.memory import human, state_bytes
from sightline.recipe import load
from sightline.train.freeze import freeze
from tests.evaluate import tiny
from tests.evaluate.test_adopted import llava, qwen


def test_a_sound_recipe(call, recipe_file: Path) -> None:
    done = call("check", recipe_file)
    assert done.exit_code == 0, done.output
    assert "nothing found that would stop this run" in done.stdout
    assert "[image: 4 tokens] what color is the whole picture ? ⟦red </s>⟧" in done.stdout
    assert "\x1b" not in done.output and done.stderr == ""


def test_counts_and_memory_are_those_of_the_real_model(recipe_file: Path) -> None:
    recipe = load(str(recipe_file))
    seen = look(recipe)
    built = tiny.model(list(seen.data[0].rows))
    (found,) = seen.stages
    assert found.towers == freeze(built.model, recipe.stages[0])
    assert found.memory == state_bytes(built.model)


def test_tokens_are_those_of_the_real_encoder(recipe_file: Path) -> None:
    seen = look(load(str(recipe_file)))
    rows = list(seen.data[0].rows)
    real = [tiny.model(rows).encoder.encode(row) for row in rows]
    tokens = seen.stages[0].tokens
    assert tokens is not None
    assert (tokens.rows, tokens.encoded, tokens.sequences) == (12, 12, 12)
    assert (tokens.shortest, tokens.longest) == (min(map(len, real)), max(map(len, real)))
    assert all(sample in real for sample in tokens.samples)


def test_a_row_as_the_model_sees_it(recipe_file: Path) -> None:
    seen = look(load(str(recipe_file)))
    assert seen.encoder is not None
    row = next(row for row in seen.data[0].rows if row.question == "is it red ?" and row.answer == "yes")
    assert marked(seen.encoder.encode(row), seen.encoder) == "[image: 4 tokens] is it red ? ⟦yes </s>⟧"


def test_packing_counts_sequences_and_steps(recipe_file: Path) -> None:
    overrides = ["stages.see.pack=image", "stages.see.epochs=2", "stages.see.max_length=64"]
    (found,) = look(load(str(recipe_file), overrides)).stages
    assert found.tokens is not None and found.tokens.sequences is not None and found.plan is not None
    assert found.tokens.sequences <= 6
    assert found.plan.total == -(-2 * found.tokens.sequences // 2)


def test_over_long_rows_are_a_fault_or_counted(call, recipe_file: Path) -> None:
    done = call("check", recipe_file, "stages.see.max_length=12")
    assert done.exit_code == 2
    assert "6 rows are longer than 12 tokens" in done.stderr and "over_length=skip" in done.stderr
    done = call("check", recipe_file, "stages.see.max_length=12", "stages.see.over_length=skip")
    assert done.exit_code == 0


def test_every_row_over_the_limit(call, recipe_file: Path) -> None:
    done = call("check", recipe_file, "stages.see.max_length=3", "stages.see.over_length=skip")
    assert done.exit_code == 2 and "every row is longer than 3 tokens" in done.stderr


def test_a_truncated_image_is_a_fault_or_skipped(call, recipe_file: Path) -> None:
    path = recipe_file.parent / "blue.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:500])
    done = call("check", recipe_file)
    assert done.exit_code == 2 and "test.json row 5" in done.stderr and "data.test.broken=skip" in done.stderr
    done = call("check", recipe_file, "data.test.broken=skip")
    assert done.exit_code == 0, done.stderr
    assert "broken: " in done.stdout and "blue.png" in done.stdout


def test_several_faults_are_told_at_once(call, recipe_file: Path) -> None:
    done = call("check", recipe_file, "stages.see.max_length=3", "stages.see.learn={vision: {last: 9}}")
    assert done.exit_code == 2
    assert "every row is longer" in done.stderr and "2 blocks, not 9" in done.stderr


def test_a_device_that_is_not_here(call, recipe_file: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = call("check", recipe_file, "device=cuda")
    assert done.exit_code == 2 and "no CUDA device" in done.stderr


def test_a_look_cut_short_says_so(call, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load(str(recipe_file))
    seen = look(recipe, seconds=0.0)
    tokens = seen.stages[0].tokens
    assert tokens is not None
    assert tokens.encoded == 1 and tokens.sequences is None
    assert seen.data[0].opened == 0 and seen.data[0].images == 6
    monkeypatch.setattr("sightline.commands.check.look", lambda recipe: look(recipe, seconds=0.0))
    done = call("check", recipe_file)
    assert "(time was up)" in done.stdout and "1 of 12" in done.stdout


def test_a_published_recipe_whose_weights_are_not_here(call, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([]))
    done = call("check", "llava-1.5-7b")
    assert done.exit_code == 2
    assert "6,7" in done.stdout  # the table of 6.7 billion parameters is there all the same
    assert "Traceback" not in done.output


@pytest.mark.parametrize("family", [llava, qwen])
def test_an_adopted_model_is_read_without_its_weights(call, recipe_file: Path, family) -> None:
    processor, fields = family()
    fields["text_config"] = fields["text_config"] | {"vocab_size": len(processor.tokenizer)}
    source = recipe_file.parent / "vlm"
    AutoConfig.for_model(**fields).save_pretrained(source)
    processor.save_pretrained(source)
    content = yaml.safe_load(recipe_file.read_text())
    content["model"] = {"adopt": {"source": str(source)}}
    recipe_file.write_text(yaml.safe_dump(content))
    done = call("check", recipe_file)
    assert done.exit_code == 0, done.output
    assert "[image: " in done.stdout and "what color is the whole picture ?" in done.stdout


def test_bytes_are_told_as_people_read_them() -> None:
    assert human(preflight.StateBytes(weights=3 * 2**30).total) == "3.0 GiB"


def test_a_stream_is_looked_at_and_not_read_through(
    call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(look(load(str(recipe_file))).data[0].rows)
    write_shards(rows, tmp_path / "pairs-%02d.tar", per_shard=5)
    data = f"data.test={{reader: webdataset, path: '{tmp_path}/pairs-{{00..02}}.tar', stream: {{}}}}"
    monkeypatch.setattr(preflight, "LOOKED_AT", 6)
    done = call("check", recipe_file, data, "stages.see.epochs=3")
    assert done.exit_code == 0, done.output
    assert "12 (6 looked at)" in done.stdout and "6 of 12" in done.stdout
    (found,) = look(load(str(recipe_file), [data, "stages.see.epochs=3"])).stages
    assert found.plan is not None and found.plan.total == -(-3 * 12 // found.stage.batch)


def test_what_a_head_will_choose_from_is_told(call, recipe_file: Path) -> None:
    content = yaml.safe_load(recipe_file.read_text())
    content["model"]["compose"]["head"] = {"min_count": 1, "answers": 3}
    content["stages"][0] |= {"objective": "answers", "learn": {"head": "all"}}
    recipe_file.write_text(yaml.safe_dump(content))
    done = call("check", recipe_file)
    assert done.exit_code == 0, done.output
    assert "see: one of 3 answers is chosen, and none written; 5 of 12 rows have none of them" in done.stdout
    assert "what color is the whole picture ? ⟦none of the answers⟧" in done.stdout  # the first row's is red
    head = next(line for line in done.stdout.splitlines() if line.split()[:3] == ["see", "head", "all"])
    assert f"{16 * 32 + 32 + 33 * 3:,}" in head  # two layers, for the three most frequent answers
    told = call("check", recipe_file, "model.compose.head.answers=null").stdout
    assert "what color is the whole picture ? ⟦red: 1⟧" in told and "0 of 12 rows" in told
