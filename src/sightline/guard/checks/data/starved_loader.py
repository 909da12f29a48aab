"""I6 · The model waits for its data most of the time.

Symptom: the accelerator's use goes up and down between 0 and 100 %; steps an hour do not rise with a faster device.
Root cause: too few loader workers (the default is 0: the training process loads), decoding or reading that is slow (an
archive opened again for each sample), no pinned memory, or more workers than cores.
Fix: raise `num_workers` (start at the cores there are for each rank) with `persistent_workers=True` and
`prefetch_factor`; set `pin_memory=True` for CUDA; decode once and cache; move augmentation to the device.
Stays silent when: the wait is shorter than the work, or a few milliseconds; on a CPU, where loading competes with the
step, it is less than three quarters of the time, three fifths where a sample takes 2 ms, or two fifths where it takes
4 ms or one file is opened for each; what lies between steps is other work (evaluation, logging): the loader itself must
be seen to be slow.
Sources:
- https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html (2026-11-01): asynchronous loading by workers,
  pinned memory
- https://arxiv.org/abs/2007.06775 (2020-07-14): data stalls take 10-70 % of the epoch time in many common models
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import WaitingSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion")
STEPS = 8  # a median over fewer is the loader's start-up
DEVICE_SHARE, DEVICE_WAIT = 0.5, 0.005  # an accelerator that idles half of the time, 5 ms or more a step
HOST_SHARE, HOST_WAIT = 0.75, 0.05  # on a CPU loading competes with the step, and toy models have no step to speak of
SLOW = {0.4: 0.004, 0.6: 0.002}  # there, where a sample takes as long as decoding a photo does: no toy's loading
AGAIN = 0.4  # there, where a file is opened for each sample
ALONE = 0.5  # of the wait that making a batch must explain where the loader's own wait could not be timed


def find(waiting: WaitingSeen) -> Verdict:
    """Compare the median wait for a batch with the median step."""
    if waiting.steps < STEPS:
        return CannotTell(f"{STEPS} steps with a loader in sight")
    share = waiting.wait / waiting.period if waiting.period else 0.0
    each = waiting.wait / waiting.samples if waiting.samples else 0.0
    on_host = min([HOST_SHARE, *(least for least, seconds in SLOW.items() if each > seconds)]), HOST_WAIT
    on_host = on_host if waiting.reopened is None else (AGAIN, DEVICE_WAIT)
    least, shortest = on_host if waiting.device == "cpu" else (DEVICE_SHARE, DEVICE_WAIT)
    if share < least or waiting.wait < shortest:
        return None
    if not waiting.exact:
        if waiting.make is None:
            return CannotTell("time that the loader needs for a batch (others may fill the time between steps)")
        if waiting.make / max(1, waiting.workers) < ALONE * waiting.wait:
            return None
    return Finding(
        severity="warning",
        message=f"{share:.0%} of the time goes by waiting for data: {waiting.wait * 1e3:.0f} ms of"
        f" {waiting.period * 1e3:.0f} ms a step",
        fix=_cheaper(waiting),
        seen={"wait, s": waiting.wait, "step, s": waiting.period, "num_workers": waiting.workers}
        | ({} if waiting.make is None else {"one batch takes a worker, s": waiting.make}),
    )


def _cheaper(waiting: WaitingSeen) -> str:
    if waiting.reopened is not None:
        return f"open {waiting.reopened} once, where the data set is made: it is opened and read again for each sample"
    more = f"raise num_workers (it is {waiting.workers}) with persistent_workers=True"
    pin = "" if waiting.pinned or waiting.device != "cuda" else ", set pin_memory=True"
    return f"{more}{pin}, or make reading a sample cheaper (decode once, cache)"


def specimen(run: Run, *, faulty: bool) -> None:
    """A data set that needs 80 ms for a sample, or no time."""
    import time

    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    class Slow(Dataset):
        seconds = 0.0

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> torch.Tensor:
            time.sleep(self.seconds)
            return torch.ones(4) * index

    data, model = Slow(), nn.Linear(4, 2)
    if faulty:
        data.seconds = 0.08
    loader = DataLoader(data, batch_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    run.attach(model, optimizer, loader)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
