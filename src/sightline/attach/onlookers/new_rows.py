"""Are tokens taught whose rows were added to the embedding and the output layer of a trained model, and are frozen?"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.origins import ORIGINS
from sightline.attach.setup import embedding_of
from sightline.guard.evidence import FreshFrozenSeen
from sightline.guard.probes.call import Call

LOOKS = 4  # measured training forwards in which some of the labels are new tokens
MOST = 64  # measured training forwards that are looked at
OFTEN = 0.5  # of the rows: a token of every answer (its end, its turn), and no rare word


class NewRows(Onlooker):
    """Looks at the labels of measured forwards, where a table was enlarged and nothing of it learns."""

    shows: ClassVar = ("FreshFrozenSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = self._taught = 0
        self._over = self._told = False

    def again(self) -> None:
        """Tokens may have been added before this stage."""
        if not self._told:
            self._looks, self._taught, self._over = 0, 0, False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Count the labels that are new tokens."""
        if self._over or not training or not measured:
            return
        self._looks += 1
        tables, labels = idle_tables(self.recorder.model), call.tensor("labels")
        if not tables or labels is None or labels.dim() != 2 or self._looks > MOST:
            self._over = True
            return
        (_, table, new), *_ = tables
        found = (labels >= len(table) - new).any(dim=1).float().mean()

        def arrived(came: list[Tensor]) -> None:
            self._taught += float(came[0]) >= OFTEN
            if self._taught == LOOKS and not self._over:
                self._over = self._told = True
                numel = sum(rows * weight.shape[1] for _, weight, rows in tables)
                seen = FreshFrozenSeen(self.recorder.step, tuple(n for n, _, _ in tables), numel, "rows", 0, tokens=new)
                self.recorder.offer(seen)

        self.recorder.mailbox.post([found], arrived)

    def close(self, *, broken: bool) -> None:
        """Look no more."""
        self._over = self._told = True


def idle_tables(model: nn.Module) -> list[tuple[str, Tensor, int]]:
    """Name, weight and new rows of a model's embedding and output layer, where both have such and none learns.

    A wrapper around either that learns something (a copy, low-rank matrices, single rows) is as good as the weight.
    """
    parts = [embedding_of(model), _asked(model, "get_output_embeddings"), _asked(model, "get_input_embeddings")]
    if any(p.requires_grad for part in parts if part is not None for p in part.parameters()):
        return []
    names = {id(p): name for name, p in model.named_parameters()}
    weights = {id(w): w for part in parts if (w := getattr(part, "weight", None)) is not None and id(w) in names}
    found = [(names[id(w)], w, ORIGINS.new_rows(w)) for w in weights.values()]
    return found if all(new for *_, new in found) else []


def _asked(model: nn.Module, method: str) -> nn.Module | None:
    """A model's own answer, if it has one."""
    try:
        part = getattr(model, method)()
    except (NotImplementedError, AttributeError):
        return None
    return part if isinstance(part, nn.Module) else None
