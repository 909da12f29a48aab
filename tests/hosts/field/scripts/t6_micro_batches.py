import tempfile, pathlib
import torch, yaml
from torch.utils.data import Dataset, DataLoader
from transformers import MistralConfig, MistralForCausalLM, get_cosine_schedule_with_warmup

CONFIG = """
model: {hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}
train: {epochs: 3, micro_batch: 4, accumulate: 4, lr: 3.0e-3, warmup_ratio: 0.05, clip: 1.0}
data: {rows: 960, length: 24, vocab: 48}
"""
path = pathlib.Path(tempfile.mkdtemp()) / "run.yaml"
path.write_text(CONFIG)
cfg = yaml.safe_load(path.read_text())


class Sorting(Dataset):
    """digits, a separator, and the same digits sorted"""

    def __init__(self, rows, length, vocab, seed):
        g = torch.Generator().manual_seed(seed)
        half = (length - 1) // 2
        digits = torch.randint(3, vocab, (rows, half), generator=g)
        sep = torch.full((rows, 1), 2)
        self.ids = torch.cat([digits, sep, digits.sort(1).values], 1)
        self.half = half

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        labels = self.ids[i].clone()
        labels[: self.half + 1] = -100
        return {"input_ids": self.ids[i], "labels": labels}


def main(cfg):
    torch.manual_seed(11)
    d, t = cfg["data"], cfg["train"]
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=d["vocab"],
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            **cfg["model"],
        )
    )
    loader = DataLoader(
        Sorting(d["rows"], d["length"], d["vocab"], 0), batch_size=t["micro_batch"], shuffle=True, drop_last=True
    )
    val = DataLoader(Sorting(64, d["length"], d["vocab"], 1), batch_size=32)
    total = len(loader) // t["accumulate"] * t["epochs"]
    opt = torch.optim.AdamW(model.parameters(), lr=t["lr"], weight_decay=0.01)
    sched = get_cosine_schedule_with_warmup(opt, int(total * t["warmup_ratio"]), total)
    step = 0
    for epoch in range(t["epochs"]):
        model.train()
        for i, batch in enumerate(loader):
            loss = model(**batch).loss
            (loss / t["accumulate"]).backward()
            if (i + 1) % t["accumulate"] == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), t["clip"])
                opt.step()
                sched.step()
                opt.zero_grad()
                step += 1
                if step % 20 == 0:
                    print(f"epoch {epoch} update {step} loss {loss.item():.3f} lr {sched.get_last_lr()[0]:.5f}")
        model.eval()
        with torch.no_grad():
            v = sum(model(**b).loss.item() for b in val) / len(val)
        print(f"epoch {epoch} val {v:.3f}")


main(cfg)
