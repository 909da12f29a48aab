"""Fine-tune a small LLaVA: the vision tower is frozen, connector and language model learn at their own rates."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, set_seed

set_seed(0)
IMAGE, USER, ASK, ANSWER, COLOURS, EOS = 3, 4, 5, 6, range(10, 16), 2
palette = torch.rand(6, 3)
config = LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=32,
    ),
    text_config=LlamaConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
    ),
    image_token_id=IMAGE,
    vision_feature_layer=-1,
    vision_feature_select_strategy="default",
)
model = LlavaForConditionalGeneration(config)


def batch(n=8):
    kind = torch.randint(0, 6, (n,))
    pixels = (palette[kind][:, :, None, None] + 0.05 * torch.randn(n, 3, 16, 16) - 0.5) / 0.25
    prompt = torch.tensor([USER] + [IMAGE] * 4 + [ASK, ANSWER]).repeat(n, 1)
    ids = torch.cat([prompt, kind[:, None] + COLOURS.start, torch.full((n, 1), EOS)], dim=1)
    labels = ids.clone()
    labels[:, : prompt.shape[1]] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "labels": labels}


for parameter in model.model.vision_tower.parameters():
    parameter.requires_grad = False
optimizer = torch.optim.AdamW(
    [
        {"params": model.model.multi_modal_projector.parameters(), "lr": 3e-3},
        {"params": [*model.model.language_model.parameters(), *model.lm_head.parameters()], "lr": 2e-3},
    ],
    weight_decay=0.0,
)
model.train()
model.model.vision_tower.eval()
for step in range(80):
    loss = model(**batch()).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 16 == 15:
        print(step + 1, loss.item())

model.eval()
with torch.no_grad():
    test = batch(32)
    guess = model(**test).logits[:, -3].argmax(-1)
print("accuracy", (guess == test["input_ids"][:, -2]).float().mean().item())
