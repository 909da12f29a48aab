"""LLaVA-ish: CLIP tower (frozen, features without gradient), MLP connector, GPT-2 with LoRA from peft."""

import torch
import torch.nn as nn
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
SHAPES = ["square", "bar", "column"]
WORDS = ["<pad>", "<bos>", "<eos>", "<image>", "what", "is", "it", "a"] + list(COLORS) + SHAPES
W = {w: i for i, w in enumerate(WORDS)}
N_PATCH = 16


class Pictures(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.rows = []
        for _ in range(n):
            c, s = torch.randint(4, (1,), generator=g).item(), torch.randint(3, (1,), generator=g).item()
            x, y = torch.randint(0, 16, (2,), generator=g).tolist()
            img = torch.randn(3, 32, 32, generator=g) * 0.1
            h, w = [(12, 12), (6, 16), (16, 6)][s]
            img[:, y : y + h, x : x + w] = torch.tensor(list(COLORS.values())[c], dtype=torch.float)[:, None, None]
            self.rows.append((img, list(COLORS)[c], SHAPES[s]))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        img, color, shape = self.rows[i]
        prompt = ["<bos>"] + ["<image>"] * N_PATCH + ["what", "is", "it"]
        answer = ["a", color, shape, "<eos>"]
        ids = torch.tensor([W[w] for w in prompt + answer])
        labels = ids.clone()
        labels[: len(prompt)] = -100
        return dict(pixel_values=img, input_ids=ids, labels=labels)


class VisionLanguage(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
            )
        )
        self.connector = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64))
        self.llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )

    def forward(self, pixel_values, input_ids, labels=None):
        with torch.no_grad():
            feats = self.vision(pixel_values=pixel_values).last_hidden_state[:, 1:]
        image = self.connector(feats)
        embeds = self.llm.get_input_embeddings()(input_ids)
        where = (input_ids == W["<image>"]).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(where, image.to(embeds.dtype))
        return self.llm(inputs_embeds=embeds, labels=labels)


def pretrain_text(llm, rows, steps=60):
    opt = torch.optim.AdamW(llm.parameters(), lr=3e-3)
    words = torch.stack([r["input_ids"][-7:] for r in rows])
    for _ in range(steps):
        ids = words[torch.randint(len(words), (16,))]
        loss = llm(input_ids=ids, labels=ids).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
    print("text only", loss.item())


torch.manual_seed(0)
train, test = Pictures(600, 1), Pictures(120, 2)
model = VisionLanguage()
pretrain_text(model.llm, [train[i] for i in range(200)])

model.requires_grad_(False)
cfg = LoraConfig(r=16, lora_alpha=32, target_modules=r"llm\..*\.(q_proj|v_proj|up_proj|down_proj)")
model = inject_adapter_in_model(cfg, model)
model.connector.requires_grad_(True)
model.vision.eval()
params = [p for p in model.parameters() if p.requires_grad]
print("trainable", sum(p.numel() for p in params))
opt = torch.optim.AdamW(
    [
        {"params": list(model.connector.parameters()), "lr": 3e-3},
        {"params": [p for n, p in model.named_parameters() if p.requires_grad and "connector" not in n], "lr": 2e-3},
    ],
    weight_decay=0.0,
)
for epoch in range(5):
    model.train()
    model.vision.eval()
    for batch in DataLoader(train, batch_size=20, shuffle=True):
        loss = model(**batch).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
    model.eval()
    right = n = 0
    with torch.no_grad():
        for batch in DataLoader(test, batch_size=40):
            pred = model(**batch).logits[:, -4:-2].argmax(-1)
            right += (pred == batch["labels"][:, -3:-1]).all(1).sum().item()
            n += len(pred)
    print(f"epoch {epoch} loss {loss.item():.3f} exact {right / n:.2f}")
