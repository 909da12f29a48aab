"""The libraries that own a training loop, in a script: the callback that its author could have added, for each Trainer.

Nothing is imported for this: a library is noticed when the script imports it. Its callback is in the Trainer's list for
as long as a method of the Trainer runs, and not before or after.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sightline.attach.hook import Hook
from sightline.attach.records import keeps_records
from sightline.attach.script.heap import tokenizer_for
from sightline.attach.script.orphans import Orphans, settle
from sightline.attach.script.watch import Models
from sightline.attach.setup import embedding_of
from sightline.attach.truth import Kept, kept, truths
from sightline.attach.truth_of_texts import texts_truths, written

HF_METHODS = ("evaluate", "predict")
LIGHTNING_JUDGES = ("validate", "test")


class Hosts:
    """The Trainers of a script. `fault`: told of errors of our own."""

    def __init__(self, models: Models, budget: float, fault: Callable[[str], None]) -> None:
        self._models, self._budget, self._fault = models, budget, fault
        self._orphans = Orphans(models)
        self._callbacks: dict[int, Any] = {}  # by a living Trainer's id: some Trainers have no hash
        self._asked: set[tuple[int, bool]] = set()
        self._fits: dict[int, Any] = {}  # by a living Trainer's id: the callback of its last fit

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {
            "transformers.trainer": self._transformers,
            "lightning.pytorch.trainer.trainer": lambda: self._lightning("lightning.pytorch"),
            "pytorch_lightning.trainer.trainer": lambda: self._lightning("pytorch_lightning"),
            "accelerate.accelerator": self._accelerate,
        }

    def _failed(self, error: Exception) -> None:
        self._fault(f"host: {type(error).__name__}: {error}")

    def _transformers(self) -> None:
        self._wrap("transformers.trainer", HF_METHODS, self._hf)
        self._wrap("transformers.trainer", ("train",), self._hf_trains)

    def _lightning(self, package: str) -> None:
        self._wrap(f"{package}.trainer.trainer", ("fit",), self._fit)
        self._wrap(f"{package}.trainer.trainer", LIGHTNING_JUDGES, self._judge)

    def _wrap(self, module: str, methods: tuple[str, ...], inside: Callable[[Any], Any]) -> None:
        """Run each of `methods` of the module's Trainer inside `inside(trainer)`."""
        kind = sys.modules[module].Trainer
        for name in methods:
            setattr(kind, name, _within(getattr(kind, name), inside))

    # --- transformers and TRL ------------------------------------------------------------------------------------

    @contextmanager
    def _hf_trains(self, trainer: Any) -> Iterator[None]:
        """A model that another Trainer trained before, or this one before its author watches it, is watched once."""
        Hook(self._leave_to, self._failed)(trainer)
        with self._hf(trainer):
            yield

    def _leave_to(self, trainer: Any) -> None:
        """Let go of its model, but for the callback that goes on with it."""
        from sightline.attach.hf_trainer import GuardCallback

        authored = any(isinstance(one, GuardCallback) for one in trainer.callback_handler.callbacks)
        goes_on = None if authored else self._callbacks.get(id(trainer))
        held = {id(p) for p in trainer.model.parameters()} if trainer.model is not None else set()
        for one in self._callbacks.values():
            if one is goes_on or one.guard is None:
                continue
            if any(id(p) in held for p in one.guard.model.parameters()):
                self._models.drop(one.guard)

    @contextmanager
    def _hf(self, trainer: Any) -> Iterator[None]:
        from sightline.attach.hf_trainer import GuardCallback

        listed = trainer.callback_handler.callbacks
        if any(isinstance(one, GuardCallback) for one in listed):  # the author's own, or a method inside another
            yield
            return
        if id(trainer) not in self._callbacks:
            Hook(self._make_hf_callback, self._failed)(trainer)
        with _among(listed, self._callbacks.get(id(trainer))), kept(trainer) as metrics:
            yield
        if metrics is not None and metrics.given is not None:
            Hook(self._ask_metrics, self._failed)(trainer, metrics)

    def _ask_metrics(self, trainer: Any, metrics: Kept) -> None:
        """Once for each Trainer, and once more if it has trained since: what do its metrics say of the truth?"""
        guard = getattr(self._callbacks.get(id(trainer)), "guard", None)
        asked = (id(trainer), trainer.state.global_step > 0)
        if guard is None or asked in self._asked:
            return
        self._asked.add(asked)
        if metrics.written:
            step, metrics_of = trainer.state.global_step, metrics.compute
            if (lengths := written(metrics.given, guard.model, step)) is not None:
                guard.show(lengths)
            if not keeps_records(metrics_of):
                for seen in texts_truths(metrics_of, metrics.given, guard.model, step, _padding(trainer)):
                    guard.show(seen)
            return
        for seen in truths(metrics.compute, metrics.given, guard.model, trainer.state.global_step):
            guard.show(seen)

    def _make_hf_callback(self, trainer: Any) -> None:
        from sightline.attach.data_set import objective_of
        from sightline.attach.hf_trainer import GuardCallback as Plain
        from sightline.attach.trl import GuardCallback as OfTRL

        door: type = OfTRL if objective_of(trainer.args) or getattr(trainer, "ref_model", None) is not None else Plain
        options = self._options(trainer.model if getattr(trainer, "processing_class", None) is None else None)
        kind: Any = self._quiet(door, stays=("on_train_end",))
        begin = kind.on_train_begin

        def begins(callback: Any, *args: Any, **given: Any) -> None:
            with self._orphans.counting(given["model"], callback):
                begin(callback, *args, **given)

        kind.on_train_begin = begins
        callback = kind(trainer=weakref.proxy(trainer), **options)
        self._callbacks[id(trainer)] = callback
        weakref.finalize(trainer, self._gone, id(trainer)).atexit = False

    def _gone(self, trainer: int) -> None:
        """A Trainer was dropped, and with it its model, unless the script goes on with that."""
        self._asked -= {(trainer, False), (trainer, True)}
        Hook(self._orphans.take, self._failed)(self._callbacks.pop(trainer).guard)

    # --- Lightning -----------------------------------------------------------------------------------------------

    @contextmanager
    def _fit(self, trainer: Any) -> Iterator[None]:
        from sightline.attach.lightning import GuardCallback

        listed = trainer.callbacks
        if any(isinstance(one, GuardCallback) for one in listed):
            yield
            return
        made: list[Any] = []
        Hook(lambda: made.append(self._make_lightning_callback(trainer)), self._failed)()
        with _among(listed, made[0] if made else None):
            yield

    def _make_lightning_callback(self, trainer: Any) -> Any:
        """One whose watch goes on behind the fit's end, for what the Trainer or the script itself judges then."""
        from sightline.attach.lightning import GuardCallback

        kind: Any = self._quiet(GuardCallback)
        begin = kind.on_train_start

        def starts(callback: Any, trainer: Any, module: Any) -> None:
            Hook(lambda: self._drop_fits({id(p) for p in module.parameters()}), self._failed)()
            begin(callback, trainer, module)

        def ends(callback: Any) -> None:
            callback.rest()
            if callback.guard is not None and not callback.guard._closed:
                settle(callback.guard._recorder)
                callback.listen_on()

        kind.on_train_start, kind.close = starts, ends
        callback = kind(**self._options(None))
        if id(trainer) not in self._fits:
            weakref.finalize(trainer, self._fit_gone, id(trainer)).atexit = False
        self._fits[id(trainer)] = callback
        return callback

    def _drop_fits(self, held: set[int]) -> None:
        """A model is fitted again, by whatever Trainer: by a watch of its own."""
        for one in self._fits.values():
            if one.guard is not None and any(id(p) in held for p in one.guard.model.parameters()):
                self._models.drop(one.guard)

    def _fit_gone(self, trainer: int) -> None:
        self._models.drop(self._fits.pop(trainer).guard)

    @contextmanager
    def _judge(self, trainer: Any) -> Iterator[None]:
        """What a Trainer judges after the fit, the test rows for one; within it, its callback says so by itself."""
        callback = self._fits.get(id(trainer))
        if callback is None or callback.guard is None or callback.guard._closed or callback.fitting:
            yield
            return
        recorder = callback.guard._recorder
        with callback.guard.evaluating():
            yield
        recorder.end_evaluation()
        recorder.evaluated = False  # what the script judges by itself now is another evaluation

    # --- accelerate ----------------------------------------------------------------------------------------------

    def _accelerate(self) -> None:
        """Its loops are raw ones. Only what they log has no other place where it could be seen."""
        from accelerate.accelerator import Accelerator

        log, logged = Accelerator.log, Hook(self._logged, self._failed)

        @functools.wraps(log)
        def told(accelerator: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            logged(accelerator, values)
            return log(accelerator, values, *args, **kwargs)

        Accelerator.log = told

    def _logged(self, accelerator: Any, values: Mapping[str, Any]) -> None:
        inner = {id(getattr(one, "optimizer", one)) for one in accelerator._optimizers}
        those = [w for w in self._models.live if not w.adopted and any(id(o) in inner for o in w.optimizers)]
        if len(those) == 1 and (guard := those[0].attachment) is not None:
            judging = those[0].recorder.evaluated  # evaluation forwards were the last
            guard.log(values, phase="evaluation" if judging else "train")

    # --- both ----------------------------------------------------------------------------------------------------

    def _options(self, model: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"budget": self._budget, "on_finding": None}
        embedding = embedding_of(model) if model is not None else None
        tokenizer = tokenizer_for(embedding.num_embeddings) if embedding is not None else None
        return {**options, "tokenizer": tokenizer} if tokenizer is not None else options

    def _quiet(self, door: type, stays: tuple[str, ...] = ()) -> type:
        """A callback whose own errors end nobody's run. `stays`: methods of it that do nothing: the script goes on."""

        def failing(callback: Any, error: Exception) -> None:
            self._failed(error)
            if callback.guard is not None:
                callback.guard.mute()

        def made(callback: Any, **options: Any) -> None:
            door.__init__(callback, on_fault=functools.partial(failing, callback), **options)  # type: ignore[misc]

        def guarded(name: str) -> Callable[..., None]:
            act = getattr(door, name)

            def method(callback: Any, *args: Any, **kwargs: Any) -> None:
                Hook(lambda: act(callback, *args, **kwargs), functools.partial(failing, callback))()

            return functools.wraps(act)(method)

        own = {name for kind in door.__mro__[:-1] if kind.__module__.startswith("sightline.") for name in vars(kind)}
        methods = {name: guarded(name) for name in own if name.startswith("on_") and name not in stays}
        still = {name: lambda *_, **__: None for name in stays}
        return type(door.__name__, (door,), {"__init__": made, **methods, **still})


def _padding(trainer: Any) -> int | None:
    """What a Trainer pads the texts with that its model writes."""
    known = [getattr(of, "pad_token_id", None) for of in (trainer.processing_class, trainer.model.generation_config)]
    return next((pad for pad in known if isinstance(pad, int)), None)


def _within(method: Callable[..., Any], inside: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        with inside(trainer):
            return method(trainer, *args, **kwargs)

    return run


@contextmanager
def _among(listed: list[Any], callback: Any) -> Iterator[None]:
    """`callback` stands in a Trainer's list meanwhile; last, so that the author's are asked as without us."""
    if callback is None:
        yield
        return
    listed.append(callback)
    try:
        yield
    finally:
        if any(one is callback for one in listed):
            listed.remove(callback)
