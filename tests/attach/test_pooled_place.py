"""Two towers that give vectors and no logits: texts that are all read at the token they all begin with are one."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding

BOS, EOS = 1, 2


@pytest.mark.parametrize("end", [EOS, 49407], ids=["found", "in no row"])
def test_clip_pools_texts_where_they_end(end: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=30, bos_token_id=BOS, eos_token_id=end, pad_token_id=0, **sizes)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **sizes)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    optimizer, found = torch.optim.Adam(model.parameters(), lr=1e-3), list[Finding]()
    with attach(model, optimizer, on_finding=found.append, budget=1.0):
        for _ in range(14):
            ids = torch.randint(3, 30, (8, 7))
            ids[:, 0], ids[:, -1] = BOS, EOS
            optimizer.zero_grad()
            model(input_ids=ids, pixel_values=torch.randn(8, 3, 16, 16), return_loss=True).loss.backward()
            optimizer.step()
    assert [finding.code for finding in found if finding.severity != "note"] == ["M2"] * (end != EOS)
