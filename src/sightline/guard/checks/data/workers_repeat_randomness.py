"""I1 · Loader workers draw the same random numbers, so their augmentations repeat each other.

Symptom: augmentation helps less than it should; with more workers, more samples of a stretch share one crop, one noise
or one flip.
Root cause: a random generator that was made before the workers were forked (`np.random.default_rng()`, `random.Random`
or `torch.Generator` kept by the data set, its collate function or a module): every worker continues the same copy. Or
`worker_init_fn` seeds all workers alike. The global generators of torch, Python and (since torch 1.9) NumPy are seeded
anew in each worker; those that a script makes itself are not.
Fix: make the generator in the worker, on first use or in `worker_init_fn`, from `torch.initial_seed()`:
`self.rng = np.random.default_rng(torch.initial_seed() % 2**32)`.
Stays silent when: the same sample drawn in two workers of a copy of the loader comes out differently, or else what the
collate function makes of it; neither is random; there are fewer than two workers.
Sources:
- https://docs.pytorch.org/docs/stable/notes/faq.html (2026-11-01): other libraries' generators are copied into workers
- https://github.com/pytorch/pytorch/issues/5059 (2018-02-05): one draw, repeated in every worker
- https://arxiv.org/abs/2506.14813 (2026-11-21): StackOverflow-67180955 of the TrainCheck paper is this fault
- https://github.com/xingyizhou/CenterNet/issues/233 (2019-07-26): equal across workers, and again in each epoch
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import DrawsSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion")
CHANCE = 1e-6  # that independent draws agree in every place; two outcomes (a flip) need 20 draws for it


def find(draws: DrawsSeen) -> Verdict:
    """Compare what two workers drew for one sample."""
    if len(draws.workers) < 2:
        return CannotTell("loader with two workers whose draws could be compared")
    one, *others = draws.workers.values()
    if len(set(one)) == 1 and all(len(set(other)) == 1 for other in others):
        return None  # nothing random in a sample
    if len(one) > 1 and any(one == other and _by_chance(one) < CHANCE for other in others):
        return Finding(
            severity="warning",
            message=f"{len(draws.workers)} loader workers drew the same {len(one)} random versions of one sample",
            fix="make the random generator inside the worker: default_rng(torch.initial_seed() % 2**32) on first use"
            " or in worker_init_fn, not in the data set's __init__",
            seen={"draws": len(one), "different versions": len(set(one)), "workers": len(draws.workers)},
        )
    if any(draws.again.get(w) == drawn and _by_chance(drawn) < CHANCE for w, drawn in draws.workers.items()):
        return Finding(
            severity="note",
            message="each loader worker draws the same random versions again in every epoch",
            fix="seed worker generators from torch.initial_seed(), which changes with the epoch, not from a constant",
            seen={"draws": len(one), "different versions": len(set(one))},
        )
    return None


def _by_chance(drawn: Sequence[int]) -> float:
    """How likely two independent rows of draws with these frequencies are equal everywhere."""
    total = len(drawn)
    return sum((count / total) ** 2 for count in Counter(drawn).values()) ** total


def specimen(run: Run, *, faulty: bool) -> None:
    """Noise from a generator that the data set makes too early, or in the worker."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    class Noisy(Dataset):
        rng = None

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> torch.Tensor:
            self.rng = self.rng or torch.Generator().manual_seed(torch.initial_seed())
            return torch.ones(4) * index + torch.randn(4, generator=self.rng)

    data, model = Noisy(), nn.Linear(4, 2)
    if faulty:
        data.rng = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer, loader)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
