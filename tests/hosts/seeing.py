"""A small vision-language model and its rows, as users bring them to any trainer: a picture, then a text about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE, WORDS = 2, 24


class Sees(nn.Module):
    """Four picture tokens, then text. Faults: a tower under no_grad, pictures that reach nobody, a stray factor."""

    image_token_id: int

    def __init__(self, *, no_grad: bool = False, deaf: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.eyes = nn.Sequential(nn.Conv2d(3, 32, 4, stride=4), nn.Flatten(2))
        self.bridge = nn.Linear(32, 32)
        self.mouth = nn.ModuleDict(
            {"tok": nn.Embedding(WORDS, 32), "rnn": nn.GRU(32, 32, batch_first=True), "out": nn.Linear(32, WORDS)}
        )
        self.no_grad, self.deaf, self.factor = no_grad, deaf, factor

    def forward(self, input_ids: Tensor, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.no_grad):
            seen = self.eyes(pixel_values).transpose(1, 2)
        words = self.mouth["tok"](input_ids)
        if not self.deaf:
            words = words.masked_scatter((input_ids == IMAGE).unsqueeze(-1), self.bridge(seen) * self.factor)
        logits = self.mouth["out"](self.mouth["rnn"](words)[0])
        if labels is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


def rows(count: int = 64) -> list[dict[str, Tensor]]:
    """Pictures of two brightnesses; the text says which, counts from it, and ends. Only the text is supervised."""
    draw = torch.Generator().manual_seed(4)
    made = []
    for number in range(count):
        bright = number % 2
        picture = bright * 2.0 - 1 + 0.3 * torch.randn(3, 8, 8, generator=draw)
        start = 6 + 8 * bright
        ids = torch.tensor([1, *[IMAGE] * 4, 5, start, start + int(torch.randint(1, 3, (), generator=draw)), 3])
        made.append({"input_ids": ids, "pixel_values": picture, "labels": ids.masked_fill(torch.arange(9) < 6, -100)})
    return made


def taught() -> Sees:
    """Its language has learnt the texts, without pictures."""
    model, batch = Sees(deaf=True), {name: torch.stack([row[name] for row in rows()]) for name in rows(1)[0]}
    teacher = torch.optim.AdamW(model.mouth.parameters(), lr=1e-2)
    for _ in range(60):
        teacher.zero_grad()
        model(**batch)["loss"].backward()
        teacher.step()
    model.deaf = False
    return model


def optimizer_of(model: Sees, rate: float, **others: float) -> torch.optim.Optimizer:
    """AdamW with a rate for all, or others by part; what is frozen is left out."""
    groups = [(part, others.get(name, rate)) for name, part in model.named_children()]
    held = [{"params": [p for p in part.parameters() if p.requires_grad], "lr": lr} for part, lr in groups]
    return torch.optim.AdamW([group for group in held if group["params"]], lr=rate)


def planted(code: str, faulty: bool) -> tuple[Sees, torch.optim.Optimizer]:
    """The model and its optimizer with a fault of this check, or its clean twin."""
    if code == "X1":
        model = Sees(no_grad=True)
        model.eyes.requires_grad_(faulty)
        return model, optimizer_of(model, 1e-3)
    if code == "X3":
        model = taught()
        return model, optimizer_of(model, 5e-6) if faulty else optimizer_of(model, 1e-4, bridge=3e-3)
    if code == "X5":
        model = Sees(deaf=faulty)
        for part in (model.eyes, model.bridge) if faulty else ():
            part.requires_grad_(False)
        return model, optimizer_of(model, 1e-2)
    if code == "X2":
        model = Sees()
        nn.init.normal_(model.bridge.weight, std=1e5 if faulty else 0.1)
        return model, optimizer_of(model, 1e-3)
    if code == "X4":
        model = Sees()
        model.image_token_id = IMAGE
        return model, optimizer_of(model, 1e-3)
    assert code == "P5"
    model = Sees(factor=1e-5 if faulty else 1.0)
    return model, optimizer_of(model, 1e-3)
