"""A model back from disk, without the hub and without the data that it was trained on.

A run keeps `encoder/` (configurations, tokenizer, image facts) and `checkpoints/<name>/model.safetensors`; an exported
model that no other library can load keeps both in one folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from sightline.data.encode import Encoder
from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.encode_answers import AnswerEncoder
from sightline.data.encode_pairs import PairEncoder
from sightline.errors import UserError
from sightline.models.adapters import add_adapters
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import (
    Built,
    encoder_kind,
    finish,
    finish_pair,
    join,
    side_by_side,
    with_answers,
    with_pairs,
)
from sightline.models.composed import ComposedVLM
from sightline.models.export import DESCRIPTION, PAIRS
from sightline.models.shards import is_checkpoint, read_weights
from sightline.models.towers import untie
from sightline.recipe.schema import Adopt, Compose, Lora, Pair, Stage


def load_run(run: Path, checkpoint: str = "latest") -> Built:
    """The model of run directory `run` with the weights of one of its checkpoints, on the CPU in evaluation mode.

    Raises:
        UserError: `run` is no run directory, or has no such checkpoint.
    """
    if not (run / "encoder" / DESCRIPTION).is_file():
        raise UserError(
            f"no {DESCRIPTION} in its encoder folder, so this is no run directory, or one that stopped before step 1",
            where=str(run),
            fix="give a folder that `sightline train` made, e.g. runs/quickstart-20250101-120000",
        )
    saved = run / "checkpoints" / checkpoint
    if not is_checkpoint(saved):
        known = sorted(path.name for path in run.glob("checkpoints/[!.]*") if is_checkpoint(path))
        raise UserError(
            f"no checkpoint '{checkpoint}' (there: {', '.join(known) or 'none'})",
            where=str(run),
            fix="resume the run with --resume, or name another checkpoint",
        )
    return load_model(run / "encoder", saved)


def load_model(folder: Path | str, weights: Path | None = None) -> Built:
    """The model described in `folder`, with the weights saved in the folder `weights` (None: in `folder` itself).

    Raises:
        UserError: the weights do not fit the description.
    """
    folder = Path(folder)
    told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    make = _composed if "compose" in told else _pair if "pair" in told else _adopted
    built = make(told, folder)
    if told["lora"]:
        add_adapters(built.model, Lora.model_validate(told["lora"]))
    state = read_weights(weights or folder)
    if isinstance(built.model, ComposedVLM) and {f"language.{name}" for name in _ends(built.model)} <= state.keys():
        untie(built.model.language)  # weights are written once where they are shared
    missing, unexpected = built.model.load_state_dict(state, strict=False)
    lost = [name for name in missing if not _tied(built, name, state)]
    if lost or unexpected:
        raise UserError(
            f"the weights do not fit: {len(lost)} missing (e.g. {lost[:1]}), {len(unexpected)} too many "
            f"(e.g. {unexpected[:1]})",
            where=str(weights or folder),
            fix="use the files of one and the same run",
        )
    built.model.eval()
    return built


def load_encoder(folder: Path, stage: Stage) -> Encoder:
    """The encoder of what `stage` learned from, without the model: `Built.encoder_for` of what `load_model` reads."""
    told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if "adopt" in told:
        return AdoptedEncoder.load(folder)
    if isinstance(stage.objective, dict):
        return PairEncoder.load(folder if "pair" in told else folder / PAIRS)
    encoder = encoder_kind(_config(told["language"])).load(folder)
    return AnswerEncoder.load(folder, encoder) if stage.objective == "answers" else encoder


def _ends(model: ComposedVLM) -> list[str]:
    """Names of the language tower's input and output embedding matrices."""
    ends = (model.language.get_input_embeddings(), model.language.get_output_embeddings())
    return [next(f"{name}.weight" for name, part in model.language.named_modules() if part is end) for end in ends]


def _tied(built: Built, name: str, state: dict[str, Any]) -> bool:
    """Whether `name` shares its tensor with another that `state` holds."""
    own = built.model.state_dict(keep_vars=True)
    return any(other in state and own[other] is own[name] for other in own if other != name)


def _config(fields: dict[str, Any]) -> PretrainedConfig:
    rest = dict(fields)
    return AutoConfig.for_model(rest.pop("model_type"), **rest)


def _composed(told: dict[str, Any], folder: Path) -> Built:
    spec = Compose.model_validate(told["compose"])
    language = _config(told["language"])
    encoder = encoder_kind(language).load(folder)
    answers = AnswerEncoder.load(folder, encoder).answers if spec.head else ()
    fresh = {
        tower: getattr(spec, tower).model_copy(update={"source": None, "config": told[tower]})
        for tower in ("vision", "language")
    }
    model = join(
        spec.model_copy(update=fresh),
        _config(told["vision"]),
        language,
        attention=told["attention"],
        dtype=torch.float32,
        tokenizer=encoder.tokenizer,
        answers=len(answers),
    )
    model.spec = spec
    built = with_answers(finish(model, encoder, tuple(told["eos_ids"])), answers)
    return with_pairs(built, PairEncoder.load(folder / PAIRS)) if (folder / PAIRS).is_dir() else built


def _pair(told: dict[str, Any], folder: Path) -> Built:
    spec = Pair.model_validate(told["pair"])
    fresh = {
        tower: getattr(spec, tower).model_copy(update={"source": None, "config": told[tower]})
        for tower in ("vision", "language")
    }
    towers = _config(told["vision"]), _config(told["language"])
    options: dict[str, Any] = {"attention": told["attention"], "dtype": torch.float32}
    model = side_by_side(spec.model_copy(update=fresh), *towers, **options)
    model.spec = spec
    return finish_pair(model, PairEncoder.load(folder))


def _adopted(told: dict[str, Any], folder: Path) -> Built:
    spec = Adopt.model_validate(told["adopt"])
    encoder = AdoptedEncoder.load(folder)
    make = AutoModelForImageTextToText.from_config
    model = make(_config(told["config"]), attn_implementation=told["attention"])
    return finish(AdoptedVLM(model.float(), spec), encoder, tuple(told["eos_ids"]))
