"""Columns that a transformers Trainer takes out of the rows of somebody's own data set, as it makes a batch of them.

Such a data set tells its columns to nobody beforehand, and reading a row of it might draw. The Trainer's collator sees
them, and leaves out what the model's `forward` has no argument for.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from sightline.attach.dropped import asked_for
from sightline.attach.hook import Hook
from sightline.attach.script.watch import Models
from sightline.guard.evidence import DataSeen


class Columns:
    """Looks at the first row that each collator is given. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._hook = Hook(self._came, lambda error: fault(f"columns: {type(error).__name__}: {error}"))

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"transformers.trainer_utils": self._transformers}

    def _transformers(self) -> None:
        from transformers.trainer_utils import RemoveColumnsCollator

        remove, came = RemoveColumnsCollator._remove_columns, self._hook

        @functools.wraps(remove)
        def removed(collator: Any, feature: Any) -> Any:
            came(collator, feature)
            return remove(collator, feature)

        RemoveColumnsCollator._remove_columns = removed

    def _came(self, collator: Any, feature: Any) -> None:
        if collator in self._seen or not isinstance(feature, dict):
            return
        self._seen.add(collator)
        left = [name for name in feature if name not in collator.signature_columns]
        for one in self._models.live if left else ():
            attachment, model = one.attachment, one.recorder.model
            if not one.adopted or attachment is None or type(model).__name__ != collator.model_name:
                continue
            dropped, known = asked_for(model, left), attachment.watch.latest(DataSeen)
            if dropped and known is None:
                attachment.show(DataSeen(one.recorder.step, tuple(feature), prepared=True, dropped=dropped))
