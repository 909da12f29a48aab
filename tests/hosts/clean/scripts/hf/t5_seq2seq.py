import torch
from transformers import Adafactor, T5Config, T5ForConditionalGeneration, set_seed

set_seed(0)
model = T5ForConditionalGeneration(
    T5Config(
        vocab_size=40,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
)
optimizer = Adafactor(model.parameters(), lr=2e-2, relative_step=False, scale_parameter=False)


def batch(n=16):
    rows, answers = [], []
    for _ in range(n):
        a = torch.randint(2, 38, (int(torch.randint(3, 8, ())),))
        rows.append(torch.cat([a, torch.tensor([1])]))
        answers.append(torch.cat([a.sort().values, torch.tensor([1])]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    labels = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=-100)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


model.train()
for step in range(50):
    loss = model(**batch()).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(step + 1, loss.item())
model.eval()
test = batch(2)
print(model.generate(test["input_ids"], attention_mask=test["attention_mask"], max_new_tokens=8).tolist())
