"""What the connector gave is the host's own: a probe that runs the model once more leaves no trace of its rows."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding

IMAGE, PAD = 3, 0


def llava() -> LlavaForConditionalGeneration:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=16, **sizes),
            text_config=LlamaConfig(vocab_size=24, pad_token_id=PAD, **sizes),
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )


def batch(rows: int, lost: int = 0) -> dict[str, Tensor]:
    """Four placeholders and four words a row, every other row two words shorter; `lost` placeholders of one row."""
    ids = torch.randint(4, 24, (rows, 8))
    ids[:, :4] = IMAGE
    ids[0, :lost] = 5
    ids[::2, 6:] = PAD
    mask = (ids != PAD).long()
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(rows, 3, 16, 16)}


def test_padded_evaluations_of_pictures() -> None:
    torch.manual_seed(0)
    model, found = llava(), list[Finding]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=1.0) as guard:
        for _ in range(2):
            given = batch(8)
            optimizer.zero_grad()
            model(**given, labels=given["input_ids"].masked_fill(given["input_ids"] <= IMAGE, -100)).loss.backward()
            optimizer.step()
            model.eval()
            with guard.evaluating(), torch.no_grad():
                model(**batch(6))
            model.train()
    assert [finding.message for finding in found if finding.code == "X4"] == []
