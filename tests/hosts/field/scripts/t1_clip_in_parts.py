"""CLIP from a small config, contrastive training on drawn pictures and captions."""

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

torch.manual_seed(0)
COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "white": (1, 1, 1)}
PLACES = ["top", "bottom", "left", "right"]
vocab = {w: i for i, w in enumerate(["<pad>", "<bos>", "a", "patch", "at", *COLORS, *PLACES, "<eos>"])}
pairs = [(c, p) for c in COLORS for p in PLACES]


def picture(color, place):
    img = torch.randn(3, 32, 32) * 0.1
    rows = {"top": slice(0, 12), "bottom": slice(20, 32)}.get(place, slice(10, 22))
    cols = {"left": slice(0, 12), "right": slice(20, 32)}.get(place, slice(10, 22))
    img[:, rows, cols] += torch.tensor(COLORS[color]).view(3, 1, 1)
    return img


def caption(color, place):
    return torch.tensor([vocab[w] for w in f"<bos> a {color} patch at {place} <eos>".split()])


config = CLIPConfig(
    text_config=dict(
        vocab_size=len(vocab),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        eos_token_id=vocab["<eos>"],
        bos_token_id=1,
        pad_token_id=0,
    ),
    vision_config=dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    ),
    projection_dim=32,
)
model = CLIPModel(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

for step in range(120):
    chosen = [pairs[i] for i in torch.randperm(len(pairs))[:12].tolist()]
    pixel_values = torch.stack([picture(*p) for p in chosen])
    input_ids = torch.stack([caption(*p) for p in chosen])
    text = model.text_projection(model.text_model(input_ids=input_ids).pooler_output)
    image = model.visual_projection(model.vision_model(pixel_values=pixel_values).pooler_output)
    text, image = F.normalize(text, dim=-1), F.normalize(image, dim=-1)
    logits = model.logit_scale.exp() * image @ text.T
    target = torch.arange(len(chosen))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        acc = (logits.argmax(1) == target).float().mean().item()
        print(f"{step}: loss {loss.item():.3f} acc {acc:.2f}")
