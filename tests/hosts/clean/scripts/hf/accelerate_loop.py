import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    x = torch.randn(480, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    train = DataLoader(TensorDataset(x[:384], y[:384]), batch_size=16, shuffle=True)
    valid = DataLoader(TensorDataset(x[384:], y[384:]), batch_size=32)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=48)
    model, optimizer, train, valid, scheduler = accelerator.prepare(model, optimizer, train, valid, scheduler)

    for epoch in range(4):
        model.train()
        for inputs, targets in train:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        model.eval()
        right, seen = 0, 0
        for inputs, targets in valid:
            with torch.no_grad():
                guess = model(inputs).argmax(dim=-1)
            guess, targets = accelerator.gather_for_metrics((guess, targets))
            right += (guess == targets).sum().item()
            seen += len(targets)
        accelerator.print(f"epoch {epoch}: loss {loss.item():.6f} accuracy {right / seen:.4f}")
    accelerator.unwrap_model(model)


if __name__ == "__main__":
    main()
