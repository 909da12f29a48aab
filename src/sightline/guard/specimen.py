"""What a check's specimen is run with: a seeded, tiny run that attaches by the public door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sightline.guard.check import Finding

SEED = 7


class Attached(Protocol):
    """What a specimen may ask of `sightline.attach`'s answer (see `sightline.attach.torch_loop.Attachment`)."""

    findings: tuple[Finding, ...]

    def records(self) -> list[dict[str, object]]: ...
    def preflight(self, batches: Any) -> None: ...
    def log(self, metrics: Mapping[str, Any] | None = None, *, phase: Any = "train", **named: Any) -> None: ...
    def show(self, seen: Any) -> None: ...
    def reference(self, model: Any, *, synced: bool = False) -> None: ...
    def step(self, *, loss: Any = None, tokens: int | None = None) -> None: ...
    def evaluating(self) -> Any: ...
    def overfit(self, batch: Any, loss_of: Callable[[Any, Any], Any] | None = None) -> None: ...
    def metric(self, metric: Callable[..., Any], targets: Any, predictions: Any = None, **more: Any) -> None: ...
    def resumed(self, path: Any) -> None: ...
    def checkpoint(self, path: Any, load: Callable[[Any], Any] | None = None) -> None: ...
    def close(self) -> None: ...
    @property
    def replicas(self) -> Any: ...


def play(specimen: Callable[..., None], door: Callable[..., Attached], folder: Path, *, faulty: bool) -> Run:
    """Run a check's specimen, seeded, through `door` (`sightline.attach` or a partial of it), and close it."""
    import torch

    torch.manual_seed(SEED)
    run = Run(door, folder)
    specimen(run, faulty=faulty)
    run.close()
    return run


@dataclass
class Run:
    """A specimen's run.

    ``run.attach(model, optimizer, ...)`` takes what `sightline.attach` takes and is closed when the specimen returns;
    `folder` is an empty place for checkpoints. The random seed is set before the specimen starts.
    """

    door: Callable[..., Attached]
    folder: Path
    attached: list[Attached] = field(default_factory=list)

    def attach(self, *args: Any, **kwargs: Any) -> Attached:
        """Attach to the specimen's model; every step is measured, and findings are kept, not printed."""
        attachment = self.door(*args, **{"budget": 1.0, "on_finding": lambda _: None, **kwargs})
        self.attached.append(attachment)
        return attachment

    def close(self) -> None:
        """End the run: the last evidence is judged."""
        for attachment in self.attached:
            attachment.close()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of the run."""
        return tuple(finding for attachment in self.attached for finding in attachment.findings)

    def kinds(self) -> dict[str, str]:
        """Check name -> finding, allowed, passed or not-run, of the last attachment."""
        return {str(r["check"]): str(r["kind"]) for r in self.attached[-1].records()}
