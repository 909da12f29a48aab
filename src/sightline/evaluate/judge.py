"""What a model over pairs says of held-out images and texts: embeddings, matches, likelihoods.

Shapes: N distinct images, M texts, Q embeddings an image, E embedding width, P vision tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from sightline.data.batch import Batch, Example
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.score import wilson
from sightline.losses.next_token import next_token
from sightline.models.build import Built
from sightline.models.pairs import PairModel

MATCHES = 1  # the class of "this text belongs to this image"
BELOW = 1e4  # what was not looked at again stands below what was: similarities and probabilities are at most 1


@dataclass(slots=True)
class Found:
    """Embeddings on the CPU. `owner` (M,): the image of each text. `seen`: what cross-attention looks at, by image."""

    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def similarity(self) -> Tensor:
        """(N, M): of each image with each text, by the best of the image's embeddings."""
        products = torch.stack(self.images) @ torch.stack(self.texts).T
        return products.amax(1) if products.ndim == 3 else products

    def right(self) -> Tensor:
        """(N, M) bool: which text is of which image. A text that repeats one of the image's is as right as that one."""
        known: dict[tuple[int, ...], int] = {}
        said = [known.setdefault(example.input_ids, len(known)) for example in self.examples]
        of = torch.zeros(len(self.images), len(known), dtype=torch.bool)
        of[self.owner, said] = True
        return of[:, said]


class Judge:
    """Asks one model, which the caller has put into evaluation mode. `batch`: pairs in one forward pass."""

    def __init__(self, built: Built, batch: int) -> None:
        assert built.pairs is not None
        self.pairs, self.encoder, self.batch = cast(PairModel, built.model), built.pairs, batch
        self.device = next(built.model.parameters()).device

    def embed(self, rows: Sequence[Row], tell: Any) -> Found:
        """Images and texts of `rows`. Rows of one image stand together, so that it is encoded once a batch."""
        first: dict[str, int] = {}
        examples = [self.encoder.encode(row) for row in rows]
        for example in examples:
            first.setdefault(example.images[0].key, len(first))
        found = Found(examples=sorted(examples, key=lambda example: first[example.images[0].key]))
        for some in self._batches(found.examples):
            batch = self._collate(some)
            pairs = self.pairs.represent(batch)
            for place, example in enumerate(some):
                number = first[example.images[0].key]
                if number == len(found.images):  # images come in the order of their numbers
                    found.images.append(pairs.image[place].float().cpu())
                    if pairs.seen is not None:
                        found.seen.append(pairs.seen[place].cpu())
                found.owner.append(number)
                found.texts.append(pairs.text[place].float().cpu())
            tell(len(some))
        return found

    def rerank(self, found: Found, similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(N, M) for images as queries and for texts: the k nearest of each query, scored again, before all others."""
        if "itm" not in self.pairs.heads:
            raise UserError("this model has no matching head to rerank with", where="evaluate.rerank", fix="remove it")
        images, texts = similarity.shape
        near_texts = torch.zeros_like(similarity, dtype=torch.bool)
        near_texts.scatter_(1, similarity.topk(min(k, texts), dim=1).indices, True)
        near_images = torch.zeros_like(near_texts)
        near_images.scatter_(0, similarity.topk(min(k, images), dim=0).indices, True)
        places = (near_texts | near_images).nonzero().tolist()
        scores = similarity.clone()
        for (image, text), p in zip(places, self.match(found, places), strict=True):
            scores[image, text] += p
        return (
            torch.where(near_texts, scores, similarity - BELOW),
            torch.where(near_images, scores, similarity - BELOW),
        )

    def match(self, found: Found, places: list[list[int]]) -> list[float]:
        """The probability that each (image, text) belongs together, by the matching head."""
        told: list[float] = []
        for some in self._batches(places):
            batch = self._collate([found.examples[text] for _, text in some], images=False)
            seen = torch.stack([found.seen[image] for image, _ in some]).to(self.device)
            logits = self.pairs.match(seen, batch.input_ids, batch.attention_mask).float()
            logits = logits.mean(1) if logits.ndim == 3 else logits
            told += logits.softmax(-1)[:, MATCHES].tolist()
        return told

    def heads(self, found: Found, similarity: Tensor) -> dict[str, Any]:
        """What the heads that look at an image and a text together say of right and of wrong pairs."""
        hardest = similarity.masked_fill(found.right(), -torch.inf).argmax(0).tolist()  # for each text, a wrong image
        told: dict[str, Any] = {}
        if "itm" in self.pairs.heads:
            told["matching"] = self._matching(found, hardest)
        if "itg" in self.pairs.heads:
            own, other = self._likelihood(found, found.owner), self._likelihood(found, hardest)
            told["caption_nats_per_token"] = {"own_image": own, "hardest_wrong_image": other}
        return told

    def _matching(self, found: Found, hardest: list[int]) -> dict[str, Any]:
        texts = range(len(found.owner))
        right = [p > 0.5 for p in self.match(found, [[found.owner[t], t] for t in texts])]
        wrong = [p <= 0.5 for p in self.match(found, [[hardest[t], t] for t in texts])]
        told = {
            name: {"accuracy": sum(marks) / len(marks), "interval": list(wilson(sum(marks), len(marks)))}
            for name, marks in (("right_pairs", right), ("hardest_wrong_pairs", wrong))
        }
        return told | {"accuracy": (sum(right) + sum(wrong)) / (len(right) + len(wrong)), "chance": 0.5}

    def _likelihood(self, found: Found, images: list[int]) -> float:
        """Mean negative log-likelihood of a caption's token, in nats, given the image of each text."""
        total, count = 0.0, 0
        for some in self._batches(list(range(len(images)))):
            batch = self._collate([found.examples[text] for text in some], images=False)
            seen = torch.stack([found.seen[images[text]] for text in some]).to(self.device)
            loss, tokens = next_token(*self.pairs.caption(seen, batch))
            total, count = total + float(loss), count + tokens
        return total / max(1, count)

    def _batches(self, items: list[Any]) -> Iterator[list[Any]]:
        for start in range(0, len(items), self.batch):
            yield items[start : start + self.batch]

    def _collate(self, examples: list[Example], *, images: bool = True) -> Batch:
        """Examples as a batch; without `images`, their texts alone."""
        bare = examples if images else [replace(example, images=()) for example in examples]
        return self.encoder.collate(pack(bare, "none", max(map(len, bare)))).to(self.device)
