"""BLIP-2 style: frozen image encoder, query former, projection into a frozen language model (tiny configs)."""

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

torch.manual_seed(0)
Q, IMG = 4, 3
WORDS = ["<pad>", "<s>", "</s>", "<image>", "a", "picture", "of", "circle", "box", "lines", "big", "small"]
ID = {w: i for i, w in enumerate(WORDS)}

config = Blip2Config(
    vision_config=Blip2VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    ).to_dict(),
    qformer_config=Blip2QFormerConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_hidden_size=32,
        vocab_size=20,
        max_position_embeddings=16,
    ).to_dict(),
    text_config=OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=48,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ).to_dict(),
    num_query_tokens=Q,
    image_token_index=IMG,
)
model = Blip2ForConditionalGeneration(config)


def picture(kind, big):
    yy, xx = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    r = 12 if big else 6
    if kind == 0:
        m = (yy - 16) ** 2 + (xx - 16) ** 2 < r * r
    elif kind == 1:
        m = ((yy - 16).abs() < r) & ((xx - 16).abs() < r)
    else:
        m = ((yy % 6) < 2) & ((xx - 16).abs() < r)
    return m.float().expand(3, 32, 32) * 2 - 1 + 0.1 * torch.randn(3, 32, 32)


def batch(n=16):
    k, b = torch.randint(3, (n,)), torch.randint(2, (n,))
    ids = []
    for i, j in zip(k.tolist(), b.tolist()):
        ids.append(
            [IMG] * Q
            + [
                ID[w]
                for w in f"<s> a picture of {'big' if j else 'small'} {['circle', 'box', 'lines'][i]} </s>".split()
            ]
        )
    ids = torch.tensor(ids)
    labels = ids.clone()
    labels[:, : Q + 4] = -100
    return dict(
        pixel_values=torch.stack([picture(*p) for p in zip(k.tolist(), b.tolist())]),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels,
    )


for p in model.vision_model.parameters():
    p.requires_grad = False
model.vision_model.eval()
opt = torch.optim.AdamW(
    [
        {"params": model.qformer.parameters(), "lr": 1e-3},
        {"params": [model.query_tokens], "lr": 1e-3},
        {"params": model.language_projection.parameters(), "lr": 1e-3},
        {"params": model.language_model.parameters(), "lr": 5e-4},
    ]
)
for step in range(120):
    model.train()
    model.vision_model.eval()
    out = model(**batch())
    opt.zero_grad()
    out.loss.backward()
    opt.step()
    if step % 20 == 0:
        print(f"{step} {out.loss.item():.3f}")
