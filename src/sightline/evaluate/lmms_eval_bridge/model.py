"""The model that lmms-eval loads.

python -m lmms_eval --model sightline --model_args run=runs/mine,batch=16 --tasks mmmu_val
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.evaluate.answer import Precision
from sightline.evaluate.lmms_eval_bridge.questions import Bridge, Question, row_of
from sightline.models.saved import load_run


class SightlineRun(lmms):
    """A run as one of lmms-eval's simple models.

    Args:
        run: a run directory.
        checkpoint: the name of one of its checkpoints.
        batch: rows in a forward pass (lmms-eval's own `batch_size` stands in for it).
        device: where to run; the first GPU if there is one.
        precision: of the forward passes.
    """

    is_simple = True

    def __init__(
        self,
        run: str,
        checkpoint: str = "latest",
        batch: int | str | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
        batch_size: int | str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if odd := [name for name, value in unknown.items() if value is not None and name != "max_batch_size"]:
            known = "run, checkpoint, batch, device, precision"
            raise UserError(f"there is no setting '{odd[0]}'", where="--model_args", fix=f"known: {known}")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError("several processes would each answer everything", fix="start lmms-eval in one process")
        built = load_run(Path(run), checkpoint)
        built.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.bridge = Bridge(built, batch=int(batch or batch_size or 1), precision=precision)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """What the model says to each request."""
        questions = []
        for request in requests:
            context, settings, doc_to_visual, doc_id, task, split = request.args
            questions.append(Question(self._row(context, doc_to_visual, doc_id, task, split), settings))
        return self.bridge.answers(questions)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Of each continuation: what it costs in nats, and whether greedy writing gives it.

        lmms-eval takes the least for the best, its own models returning losses here, and 0.7.3 would turn a bare pair
        into text: hence the sign, and the wrapping.
        """
        rows, continuations = [], []
        for request in requests:
            context, target, doc_to_visual, doc_id, task, split = request.args
            rows.append(self._row(context, doc_to_visual, doc_id, task, split))
            continuations.append(target if isinstance(target, str) else target(self.task_dict[task][split][doc_id]))
        found = self.bridge.likelihoods(rows, continuations)
        return [GenerationResult((-log_p, greedy)) for log_p, greedy in found]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not there: a conversation that goes on with what the model said."""
        raise UserError("Sightline's bridge answers tasks of one round")

    def _row(self, context: str, doc_to_visual: Any, doc_id: int, task: str, split: str) -> Row:
        document = self.task_dict[task][split][doc_id]
        return row_of(context, doc_to_visual(document) or [], Where(f"{task} {split}", doc_id + 1))
