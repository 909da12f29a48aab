"""The door for a raw PyTorch loop: ``sightline.attach(model, optimizer)``. Through torch's public hooks alone.

    with sightline.attach(model, optimizer, tokenizer=tokenizer) as guard:
        for batch in loader:            # unchanged
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

What hooks cannot see is said in a line each: ``guard.preflight(batches)`` before step 1, ``guard.step(loss=loss)``
where the model does not return the loss, ``with guard.evaluating():``, ``guard.checkpoint(path)``.
Nothing of the host is patched, its random numbers are not drawn, and its numbers stay the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.absent import ABSENT
from sightline.attach.data_set import spoken_since
from sightline.attach.hook import hooked, unwrapped
from sightline.attach.loading import WHY as LOADING_WHY
from sightline.attach.loading import Loading
from sightline.attach.metrics import post_metrics
from sightline.attach.preflight import Preflight
from sightline.attach.probing import Probing
from sightline.attach.recorder import Recorder
from sightline.attach.replicas import WHY as RANKS_WHY
from sightline.attach.replicas import Replicas
from sightline.attach.setup import Facts, image_token_of
from sightline.attach.towers import resolve
from sightline.errors import UserError
from sightline.guard.catalogue import Check
from sightline.guard.check import Finding, Severity
from sightline.guard.evidence import DataSeen, Evidence, Phase, Plan
from sightline.guard.probes.call import Call
from sightline.guard.probes.reference import Reference, WithoutAdapters
from sightline.guard.report import print_finding, print_summary
from sightline.guard.watch import GuardError, Watch


def attach(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    dataloader: Iterable[Any] | None = None,
    *,
    loss_fn: nn.Module | None = None,
    tokenizer: Any = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    towers: Mapping[str, Sequence[str]] | None = None,
    plan: Mapping[str, Plan] | None = None,
    image_token_id: int | None = None,
    tokens_per_image: int | None = None,
    accumulation: int | None = None,
    allow: Mapping[str, str] | None = None,
    budget: float = 0.02,
    on_finding: Callable[[Finding], None] | None = print_finding,
    raise_on: Literal["error", "warning"] | None = None,
    forward: Callable[..., Any] | None = None,
    checks: Sequence[Check] | None = None,
    on_fault: Callable[[Exception], None] | None = None,
    heard: bool = True,
) -> Attachment:
    """Watch a training loop until `close()` (or the end of the ``with`` block).

    Args:
        model: the model that the loop calls (a DataParallel or DDP wrapper is looked through).
        optimizer: the loop's optimizer; None: whichever steps the model's parameters is noticed when it does.
        dataloader: a map-style loader from which `preflight` may read a few batches.
        loss_fn: the loop's loss, when it is a module and the model does not return the loss itself.
        tokenizer: a tokenizer or processor: special tokens are checked, and findings quote text.
        decode: token ids -> text, where it is not ``tokenizer.decode``.
        towers: tower -> dotted names of its modules; None: inferred (see `attach/towers.py`).
        plan: tower -> "all", "part" or "none": what should learn. Towers not named should not.
        image_token_id, tokens_per_image: the placeholder, and how many stand for an image; None: read from the model.
        accumulation: micro-batches an optimizer step. allow: check -> reason: findings that are known and accepted.
        budget: share of step time that watching may cost; 1.0 measures every step. checks: those to run; None: all.
        on_finding: called with each new finding; None is quiet.
        raise_on: raise GuardError on a new finding of this severity or a higher one.
        forward: ``forward(model, batch)`` for the batches of `preflight`; None: ``model(**batch)``, ``model(*batch)``
            or ``model(batch)`` for a mapping, for a tuple or list, for anything else.
        on_fault: told of an error of the guard's own, which else is raised in the middle of the loop.
        heard: whether a call of the model is a forward pass. False: the host says so itself (`attach/lightning.py`).

    Raises:
        UserError: the model has no parameters, a tower's module does not exist, `allow` is wrong.
    """
    called, inner = unwrapped(model)
    _need_parameters(inner)
    facts = Facts(tokenizer, decode, plan, image_token_id, tokens_per_image, accumulation)
    watch = Watch(checks, allow=allow, on_finding=on_finding)
    attachment = Attachment(inner, optimizer, dataloader, towers, facts, watch, budget, raise_on, forward)
    attachment._handles = hooked(attachment._recorder, called, loss_fn, on_fault, heard)
    if Attachment.made is not None:
        Attachment.made(attachment)
    return attachment


class Attachment(Preflight):
    """A watched loop. Made by `attach`; a context manager. `made`: told of each (see `attach/script/watch.py`)."""

    made: ClassVar[Callable[[Attachment], None] | None] = None

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        dataloader: Iterable[Any] | None,
        towers: Mapping[str, Sequence[str]] | None,
        facts: Facts,
        watch: Watch,
        budget: float,
        raise_on: Literal["error", "warning"] | None,
        forward: Callable[..., Any] | None,
    ) -> None:
        self.model, self.dataloader, self.watch = model, dataloader, watch
        self._raise_on, self._forward, self._closed, self._broken = raise_on, forward, False, False
        probing = Probing(watch.wants, image_token_of(model, facts))
        known = resolve(model, towers)
        self._recorder = Recorder(model, known, facts, probing, self._offer, optimizer=optimizer, budget=budget)
        self._handles: list[Any] = []
        self.loading = Loading(self._recorder, dataloader, watch.wants, budget)
        self.replicas = Replicas(self._recorder, on=watch.wants("RanksSeen"), absent=watch.absent)
        self._recorder.beside.all = (self.loading, self.replicas)
        self._say_what_is_absent()

    def _say_what_is_absent(self) -> None:
        for kind, why in {**ABSENT, **LOADING_WHY, **RANKS_WHY}.items():
            self.watch.absent(kind, why)

    # --- what hooks cannot see -----------------------------------------------------------------------------------

    def step(self, *, loss: float | Tensor | None = None, tokens: int | None = None) -> None:
        """Say what hooks cannot see of the optimizer step just taken: its mean loss, its supervised tokens."""
        self._recorder.told(loss, tokens)
        self._recorder.flush()
        self._recorder.mailbox.open()

    @property
    def saw_loss(self) -> bool:
        """Whether the loss of the step just taken was seen in a backward pass."""
        return any(step.losses or step.told for step, _ in self._recorder.stepped[-1:])

    def log(self, metrics: Mapping[str, Any] | None = None, *, phase: Phase = "train", **named: Any) -> None:
        """Say what the loop measures of itself: ``guard.log(accuracy=0.7)``. Tensors of one element are read later."""
        recorder = self._recorder
        if phase == "evaluation":
            recorder.end_evaluation()
        post_metrics(recorder.mailbox, {**(metrics or {}), **named}, recorder.step, phase, self._offer)

    def show(self, seen: Evidence) -> None:
        """Show evidence that a host has and hooks cannot see, such as `DataSeen`."""
        self._offer(seen)

    def reference(self, model: nn.Module, *, synced: bool = False) -> None:
        """The policy is compared with `model`, a frozen copy. `synced`: it is updated on purpose (TR-DPO)."""
        self._recorder.probing.reference = Reference(self.model, model, synced=synced)

    def reference_by_adapter(self) -> None:
        """The policy is compared with itself, its adapters (PEFT's) switched off."""
        self._recorder.probing.reference = WithoutAdapters(self.model)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What runs inside is evaluation, whatever the modes and gradients say."""
        recorder = self._recorder
        recorder.declared, recorder.evaluated = True, False
        recorder.declarations += 1
        try:
            yield
        finally:
            recorder.declared = False
            recorder.declarations += 1

    # --- the end, and the verdicts -------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop watching: hooks go, and the last evidence is judged. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for handle in self._handles:
            handle.remove()
        recorder = self._recorder
        recorder.forward.rouse()
        recorder.flush()
        recorder.end_evaluation()
        if not self._broken:
            recorder.evaluation.close()
        recorder.mailbox.open(wait=True)
        recorder.onlookers.close(broken=self._broken)
        if recorder.last_call is not None and recorder.step:
            with recorder.silence():
                recorder.probing.look(recorder.last_call, recorder.step, self._offer, last=True)
        recorder.last_call = None
        if (data := spoken_since(self.watch.latest(DataSeen), recorder.facts.tokenizer)) is not None:
            self._offer(data)
        recorder.beside.close()
        self._offer(recorder.progress(closed=not self._broken, idle=recorder.stepping.idle()))
        self._stop_for(self.watch.settle())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far and is not allowed."""
        return self.watch.findings

    def records(self) -> list[dict[str, object]]:
        """Every check's verdict, as `findings.jsonl` holds it."""
        return self.watch.records()

    def report(self) -> None:
        """Print what was found, allowed, passed, and not run and why."""
        print_summary(self.records())

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._raise_on, self._broken = None, True  # the host's own error must not be hidden by ours
        self.close()

    def broken_off(self) -> None:
        """Close after the host's own end, be it an error or an interrupt: nothing of the model is run any more."""
        self._raise_on, self._broken, self._recorder.last_call = None, True, None
        self.close()

    def mute(self) -> None:
        """Stop listening and judge nothing more; the verdicts so far stay."""
        self._closed = True
        for handle in self._handles:
            handle.remove()

    # --- inside --------------------------------------------------------------------------------------------------

    def _offer(self, seen: Evidence) -> None:
        self._stop_for(self.watch.offer(seen))

    def _stop_for(self, new: Sequence[Finding]) -> None:
        stop: tuple[Severity, ...] = {"error": ("error",), "warning": ("error", "warning"), None: ()}[self._raise_on]
        if bad := [finding for finding in new if finding.severity in stop]:
            raise GuardError(bad)

    def _call(self, batch: Any) -> Call:
        if self._forward is None and isinstance(batch, Mapping):
            return Call(self.model, (), dict(batch))
        args = tuple(batch) if isinstance(batch, tuple | list) and self._forward is None else (batch,)
        return Call(self.model, args, {}, self._forward)


def _need_parameters(model: nn.Module) -> None:
    if not any(True for _ in model.parameters()):
        raise UserError("the model has no parameters", where="attach", fix="attach the module that is trained")
