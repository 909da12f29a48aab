"""A run's model back from its folder alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.saved import load_run
from sightline.models.vlm import VLM
from sightline.recipe.schema import Adopt, Lora
from tests.models.conftest import LANGUAGE, TEXTS, batch_of, prompts_of, spec

Compose = Callable[..., Built]


def write_run(built: Built, run: Path, name: str = "see-3") -> None:
    """What the trainer leaves of a model: its parts once, its weights in a checkpoint."""
    built.save_parts(run / "encoder")
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True)
    save_file(
        {key: value.clone().contiguous() for key, value in built.model.state_dict().items()},
        folder / "model.safetensors",
    )
    (run / "checkpoints" / "latest").symlink_to(name)


def stirred(model: VLM) -> VLM:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.mark.parametrize("lora", [None, Lora(rank=2, towers=("language", "vision"))])
@pytest.mark.parametrize("language", ["llama", "gemma2"])
def test_composed_run(language: str, lora: Lora | None, compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    built = compose(lora=lora, language={"config": LANGUAGE | {"model_type": language, "tie_word_embeddings": True}})
    stirred(built.model)
    write_run(built, tmp_path)
    again = load_run(tmp_path)
    assert torch.equal(again.model(batch_of(again, rows, "image"))[0], built.model(batch_of(built, rows, "image"))[0])
    assert again.model.generate(prompts_of(again, rows), 4) == built.model.generate(prompts_of(built, rows), 4)
    assert again.encoder.image_processor == built.encoder.image_processor
    assert again.model.lora == lora


def test_run_from_sources_that_are_gone(compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    parts = compose()
    AutoModel.from_config(parts.model.vision.config).save_pretrained(tmp_path / "vision")
    AutoModelForCausalLM.from_config(parts.model.language.config).save_pretrained(tmp_path / "language")
    parts.encoder.tokenizer.save_pretrained(tmp_path / "language")
    sources = {"vision": {"source": str(tmp_path / "vision")}, "language": {"source": str(tmp_path / "language")}}
    built = build(spec(**sources, tokenizer={}), seed=0)
    write_run(built, tmp_path / "run")
    shutil.rmtree(tmp_path / "vision"), shutil.rmtree(tmp_path / "language")
    again = load_run(tmp_path / "run")
    assert torch.equal(again.model(batch_of(again, rows))[0], built.model.eval()(batch_of(built, rows))[0])


def test_adopted_run(compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    compose().model.save(tmp_path / "llava")
    recipe = spec().model_copy(update={"compose": None, "lora": Lora(rank=2)})
    built = build(recipe.model_copy(update={"adopt": Adopt(source=str(tmp_path / "llava"))}), seed=0)
    stirred(built.model)
    write_run(built, tmp_path / "run")
    shutil.rmtree(tmp_path / "llava")
    again = load_run(tmp_path / "run")
    assert torch.equal(again.model(batch_of(again, rows))[0], built.model(batch_of(built, rows))[0])
    assert again.model.generate(prompts_of(again, rows), 4) == built.model.generate(prompts_of(built, rows), 4)
    assert again.model.eos_ids == built.model.eos_ids


@pytest.mark.slow
def test_texts_are_not_needed_again(compose: Compose, tmp_path: Path) -> None:
    built = compose()
    write_run(built, tmp_path)
    assert load_run(tmp_path).encoder.tokenizer.get_vocab() == built.encoder.tokenizer.get_vocab()
    assert TEXTS


def test_what_is_no_run_or_no_checkpoint_is_told(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        load_run(tmp_path)
    built = compose()
    write_run(built, tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint 'best'.*see-3"):
        load_run(tmp_path, "best")
    save_file({"vision.other": torch.zeros(1)}, tmp_path / "checkpoints" / "see-3" / "model.safetensors")
    with pytest.raises(UserError, match="do not fit"):
        load_run(tmp_path)
