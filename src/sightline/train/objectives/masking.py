"""Which words are masked, and what stands in their place (BERT, arXiv 1810.04805, section 3.1).

Of a text's words a share is chosen, at least one; of those 80% become [MASK], 10% another word, 10% stay. The choice is
a function of the seed, the step and the row, so it is known before any forward pass, the same in however many
micro-batches and ranks, and the same again in a resumed run.

Shapes: B texts, T tokens, S masked words.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sightline.data.batch import Batch
from sightline.errors import UserError

AS_MASK, AS_OTHER = 0.8, 0.9  # up to 0.8: [MASK]; from there to 0.9: another word; above: itself


@dataclass(frozen=True, slots=True)
class Masked:
    """Texts as the model reads them, the places of the masked words, and the words that were there (reading order)."""

    input_ids: Int[Tensor, "B T"]
    where: Bool[Tensor, "B T"]
    targets: Int[Tensor, " S"]


class Masking:
    """Masks texts of one tokenizer.

    Args:
        tokenizer: its special tokens (start, end, padding, unknown) are never masked and never put in a word's place.
        share: of a text's words.
        stage: its name, for messages.

    Raises:
        UserError: a tokenizer without a mask token.
    """

    def __init__(self, tokenizer: Any, share: float, stage: str) -> None:
        if tokenizer.mask_token_id is None:
            fix = "give model.pair.tokenizer.source a BERT's, or leave mlm out"
            raise UserError("the tokenizer has no mask token", where=f"stages.{stage}.objective.mlm", fix=fix)
        self.mask, self.share = int(tokenizer.mask_token_id), share
        self.special = frozenset(tokenizer.all_special_ids)
        self.words = tuple(token for token in range(len(tokenizer)) if token not in self.special)

    def __call__(self, batch: Batch, seed: int, step: int) -> Masked:
        """The batch's texts, masked; on the batch's device."""
        ids, keys, index = batch.input_ids.tolist(), batch.image_keys, batch.image_index.tolist()
        read, places = [], []
        for row, real, image in zip(ids, batch.attention_mask.tolist(), index, strict=True):
            words = [place for place, token in enumerate(row) if real[place] and token not in self.special]
            said = " ".join(str(row[place]) for place in words)
            digest = hashlib.blake2b(f"{seed} {step} {keys[image]} {said}".encode(), digest_size=8).digest()
            chance = random.Random(int.from_bytes(digest, "little"))
            chosen = set(chance.sample(words, min(len(words), max(1, round(self.share * len(words))))))
            read.append([self._instead(token, chance) if place in chosen else token for place, token in enumerate(row)])
            places.append([place in chosen for place in range(len(row))])
        device = batch.input_ids.device
        where = torch.tensor(places, dtype=torch.bool, device=device)
        return Masked(torch.tensor(read, dtype=torch.int64, device=device), where, batch.input_ids[where])

    def _instead(self, token: int, chance: random.Random) -> int:
        drawn = chance.random()
        return self.mask if drawn < AS_MASK else chance.choice(self.words) if drawn < AS_OTHER else token
