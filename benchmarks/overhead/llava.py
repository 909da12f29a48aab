"""(b) A LLaVA of half a million parameters, 2 images of 32 x 32 a step."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from ways import STEPS, Clock

torch.manual_seed(0)
torch.set_num_threads(1)
vision = CLIPVisionConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
)
text = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4,
)  # fmt: skip
model = LlavaForConditionalGeneration(
    LlavaConfig(vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
count = (32 // 16) ** 2

with Clock(model, optimizer) as clock:
    for _ in range(STEPS):
        words = torch.randint(10, 1000, (2, 24))
        ids = torch.cat([torch.full((2, count), 3), words], dim=1)
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < count + 12, -100)
        pixels = torch.randn(2, 3, 32, 32)
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, pixel_values=pixels).loss
        loss.backward()
        optimizer.step()
        clock.step()
