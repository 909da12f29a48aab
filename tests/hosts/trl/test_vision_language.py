"""A small LLaVA under SFTTrainer: faults between its towers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration, LlavaModel

from tests.hosts import seeing, small
from tests.hosts.planting import planted, plants
from tests.hosts.task import Fault, Rows, Task, proved
from tests.hosts.trl.training import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Eyes(CLIPVisionModel):
    """Run as their author thought that frozen ones should."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return super().forward(*args, **kwargs)


class Sees(LlavaModel):
    """Pictures that reach nobody, or nearly so."""

    deaf, factor = False, 1.0

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        given = super().get_image_features(*args, **kwargs)
        given.pooler_output = [features * self.factor for features in given.pooler_output]
        return given

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids, None if self.deaf else pixel_values, **kwargs)


def llava(*, deaf: bool = False, factor: float = 1.0) -> LlavaForConditionalGeneration:
    """For the four picture tokens and the texts of `seeing.rows`."""
    torch.manual_seed(3)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    eyes = CLIPVisionConfig(**narrow, image_size=8, patch_size=4, projection_dim=32)
    text = small.config(**narrow, vocab_size=32, pad_token_id=0, eos_token_id=3)
    facts = {"image_token_id": seeing.IMAGE, "vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=eyes, text_config=text, **facts))
    model.model = Sees(model.config)
    model.model.deaf, model.model.factor = deaf, factor
    return model


def shown() -> Rows:
    return [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in seeing.rows()]


def words() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer for the ids of `seeing.rows`."""
    special = ["<pad>", "<s>", "<image>", "</s>"]
    ids = {word: place for place, word in enumerate([*special, *(f"w{i}" for i in range(4, 32))])}
    made = Tokenizer(models.WordLevel(ids, unk_token="w4"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def collate(rows: Rows) -> dict[str, torch.Tensor]:
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def task(model: nn.Module, rows: Rows | None = None, **changes: Any) -> Task:
    return Task(model, rows or shown(), collate, **{"steps": 12, "tokenizer": words(), **changes})


@plants("X1")
def a_tower_under_no_grad(faulty: bool) -> Task:
    model = llava()
    model.model.vision_tower = Eyes(model.config.vision_config).requires_grad_(faulty)
    return task(model)


@plants("X2")
def a_projector_that_makes_giants(faulty: bool) -> Task:
    model = llava()
    if faulty:
        model.model.multi_modal_projector.linear_2.weight.data.mul_(1e6)
    return task(model)


@plants("X3")
def one_rate_for_fresh_and_trained(faulty: bool) -> Task:
    model, batch = llava(deaf=True), collate(shown())
    teacher = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        teacher.zero_grad()
        model(**batch).loss.backward()
        teacher.step()
    model.model.deaf = False
    parts = {"eyes": model.model.vision_tower, "bridge": model.model.multi_modal_projector}
    rest = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    rates = {"eyes": 1e-6, "bridge": 1e-6 if faulty else 3e-3}
    groups = [{"params": list(part.parameters()), "lr": rates[name]} for name, part in parts.items()]
    optimizer = torch.optim.AdamW([*groups, {"params": rest, "lr": 1e-6}])
    return task(model, optimizer=optimizer, steps=24)


@plants("X4")
def rows_cut_from_the_left(faulty: bool) -> Task:
    """To a length that the text fits into, and the picture's tokens before it do not."""
    length = 6 if faulty else 9
    cut = ("input_ids", "labels", "attention_mask")
    return task(llava(), [{**row, **{name: row[name][-length:] for name in cut}} for row in shown()])


@plants("X5")
def pictures_that_reach_nobody(faulty: bool) -> Task:
    model = llava(deaf=faulty)
    for part in (model.model.vision_tower, model.model.multi_modal_projector) if faulty else ():
        part.requires_grad_(False)
    return task(model, rate=1e-2)


@plants("P5")
def features_scaled_down_on_their_way(faulty: bool) -> Task:
    return task(llava(factor=1e-5 if faulty else 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("fault", planted(globals(), slow=("P5", "X1", "X3", "X5")))
def test_found_in_the_task_and_not_in_its_twin(fault: Fault, tmp_path: Path) -> None:
    def run(task: Task) -> list[dict[str, object]]:
        seen: list[dict[str, object]] = []
        with contextlib.suppress(ValueError):  # which the trainer raises where placeholders and features do not match
            train(task, tmp_path, seen)
        return seen

    proved(fault, run)
