"""A model over pairs as attacks see it: zero-shot classes in place of answers (see `view.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Precision, ready
from sightline.evaluate.retrieval import nearness
from sightline.evaluate.robust.view import Shown, View
from sightline.evaluate.zero_shot import classes_of, embed_images, embed_prompts
from sightline.models.build import Built
from sightline.models.pairs import PairModel
from sightline.recipe.schema import Evaluate


class ClassView(View):
    """Classes of `rows`, said by the recipe's templates; the loss is the cross-entropy of the similarities."""

    def __init__(self, built: Built, spec: Evaluate, rows: Sequence[Row], *, batch: int, precision: Precision) -> None:
        if built.pairs is None:
            fix = "set evaluate.metric to exact-match"
            raise UserError("this model embeds no images and texts to classify by", where="evaluate.metric", fix=fix)
        super().__init__(built, built.pairs, batch, precision)
        words = classes_of(spec, rows)
        self.names = list(words)
        with ready(built.model, self.device, precision):
            prompts = embed_prompts(built, list(words.values()), spec.templates, spec.batch)
        self.prompts = prompts.clone()  # made without a graph, and now part of one

    def answer(self, rows: Sequence[Row]) -> list[str]:
        return self._nearest(self.built, rows)

    def _answer_floats(self, rows: Sequence[Row]) -> list[str]:
        pairs = cast("object", self._substituting)
        return self._nearest(Built(self.built.model, self.built.encoder, pairs), rows)  # type: ignore[arg-type]

    def _nearest(self, built: Built, rows: Sequence[Row]) -> list[str]:
        with ready(built.model, self.device, self.precision):
            near = nearness(embed_images(built, rows, self.batch_size, lambda _: None), self.prompts)
        return [self.names[place] for place in near.argmax(1).tolist()]

    def _collate(self, rows: Sequence[Row]) -> Batch:
        examples = [self.encoder.encode(row) for row in rows]
        return self.encoder.collate(pack(examples, "none", max(map(len, examples))))

    def _losses(self, shown: Shown, batch: Batch) -> Tensor:
        model = cast(PairModel, self.built.model)
        images = model.embed_images(batch).index_select(0, batch.image_index).float()
        scale, _ = model.scale_and_bias()
        near = nearness(images, self.prompts.to(images.device)) * scale.detach()
        truth = torch.tensor([self.names.index(row.answer) for row in shown.rows], device=near.device)
        return F.cross_entropy(near, truth, reduction="none")
