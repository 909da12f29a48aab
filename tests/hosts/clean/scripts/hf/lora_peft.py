import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

set_seed(1)
data = torch.tensor(list(open("input.txt", "rb").read())).clamp(max=127)


def batch(size=8, length=40):
    at = torch.randint(0, len(data) - length, (size,))
    return torch.stack([data[i : i + length] for i in at])


config = LlamaConfig(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
)
base = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(base.parameters(), lr=3e-3)
for step in range(30):
    ids = batch()
    base(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
base.save_pretrained("base")

base = LlamaForCausalLM.from_pretrained("base")
model = get_peft_model(
    base,
    LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
model.print_trainable_parameters()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
model.train()
for step in range(40):
    ids = batch()
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(step + 1, loss.item())
model.save_pretrained("adapter")
merged = model.merge_and_unload().eval()
with torch.no_grad():
    ids = batch()
    print("merged", merged(input_ids=ids, labels=ids).loss.item())
