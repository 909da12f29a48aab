"""K2 · A resumed run does not go on where it was saved.

Symptom: the loss jumps at a resume and takes hundreds of steps to come back; the learning rate starts again at its
warm-up; two runs of the same seed differ once one of them was interrupted.
Root cause: weights were loaded and the rest was not: the optimizer's moments, the schedule's position, the random
state; or they were loaded into objects that were made anew afterwards; or the checkpoint never held them.
Fix: save and load `optimizer.state_dict()`, `scheduler.state_dict()`, `torch.get_rng_state()` (and `scaler`,
`sampler` position) beside the model's, after all of them are made; call `guard.resumed(path)` to prove it.
Stays silent when: every part that the checkpoint holds is live as it was saved, and it holds the optimizer's state if
the optimizer keeps any; nobody resumes: weights alone are loaded to be judged, or tuned on other data, at another rate,
with a new head or with more or fewer layers frozen. `sightline run` takes it for a resume when a script trains on,
alike and on the same rows, from a file of its own that says how far it had come (where rows are drawn at random: with
its moments back, on some of those rows); when all weights of an optimizer that is like the file's are the file's, and a
count of steps or epochs goes on from the file's, or its random numbers are set (so too where the file holds no
optimizer, or an optimizer that was amid a plan of rates which now begins anew, and no place in it; files that are read
together count as one, with their names and a JSON file beside them; weights alone only where it wrote them); and a
Trainer that begins with the weights of its last run, which was cut off, or where one of Lightning's had ended, to a
later end and with nothing else new; else the host must say so.
Sources:
- https://github.com/IntelLabs/distiller/issues/145 (2019-02-06): the rate starts anew, the optimizer was never loaded
- https://github.com/NVIDIA-NeMo/Automodel/issues/763 (2025-11-04): optimizer and schedule not restored, step at 0
- https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html (2026-11-01): save the optimizer's state too
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import ResumeSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
KNOBS = {
    "weights": "model.load_state_dict(...)",
    "optimizer": "optimizer.load_state_dict(...)",
    "schedule": "scheduler.load_state_dict(...)",
    "average": "ema.load_state_dict(...)",
    "rate": "step = checkpoint['step']",
    "random state": "torch.set_rng_state(...)",
}
KEPT = ("optimizer", "schedule")  # what a run cannot go on without, if it has one


def find(resume: ResumeSeen) -> Verdict:
    """What differs first; then what the run has and the checkpoint does not hold."""
    if not resume.compared:
        return CannotTell("checkpoint with a part that the run has too (give load=... to read it)")
    if resume.differ:
        part, what = resume.differ[0]
        random = part == "random state"
        return _finding(resume, part, f"{part} was not restored: {what}", "warning" if random else "error")
    lacks = [part for part in KEPT if part in resume.live and part not in resume.saved]
    if lacks:
        return _finding(resume, lacks[0], f"what was read holds no {lacks[0]}", "warning")
    return None


def _finding(resume: ResumeSeen, part: str, what: str, severity: str) -> Finding:
    return Finding(
        severity="error" if severity == "error" else "warning",
        message=f"the resumed run is not where it was saved: {what}",
        fix=f"save it, and read it back with {KNOBS[part]} after everything is made (transformers' Trainer does it in"
        " train(resume_from_checkpoint=folder), Lightning's in fit(model, ckpt_path=file))",
        seen={"differs": [f"{name}: {how}" for name, how in resume.differ], "saved": list(resume.saved)},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Train, save, begin anew, load, go on."""
    import torch
    from torch import nn

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(4, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    model, optimizer = made()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    path = run.folder / "last.pt"
    torch.save({"model": model.state_dict(), "opt": optimizer.state_dict(), "rng": torch.get_rng_state()}, path)
    model, optimizer = made()
    guard = run.attach(model, optimizer)
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    if not faulty:
        optimizer.load_state_dict(saved["opt"])
    torch.set_rng_state(saved["rng"])
    guard.resumed(path)
