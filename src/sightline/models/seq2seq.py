"""A VLM whose language tower is an encoder-decoder (T5): the encoder reads image and prompt, the decoder answers.

BLIP-2 (arXiv 2301.12597, section 3.3, figure 3) with FlanT5: what the connector makes of an image is put before the
prompt, in the encoder's input.

Shapes: B sequences, T tokens, S supervised positions, V vocabulary, A tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightline.data.batch import IGNORE, Batch
from sightline.errors import UserError
from sightline.models.composed import ComposedVLM
from sightline.models.steps import Step, likeliest
from sightline.models.supervised import only_rows
from sightline.recipe.schema import Tower


class Seq2SeqVLM(ComposedVLM):
    """See `ComposedVLM`. In a batch, labels mark the answer; what stands before is the prompt (`Seq2SeqEncoder`)."""

    def forward(self, batch: Batch, task: str = "next-token", heads: Collection[str] = ()) -> Any:
        """See `ComposedVLM.forward`."""
        if task in ("pairs", "answers"):
            return super().forward(batch, task, heads)
        _unpacked(batch)
        assert batch.labels is not None, "for the task answers there are none"
        answered = batch.labels != IGNORE
        prompt, may_look = _together(self._embed(batch), batch.attention_mask & ~answered)
        answer, said = _together(batch.labels, answered)
        begun = answer.masked_fill(~said, self._start).roll(1, dims=1)
        begun[:, :1] = self._start
        # A right-padded answer needs no mask: a decoder's token never sees the padding behind it.
        with only_rows(self.language.get_output_embeddings(), said.flatten().nonzero().squeeze(1)):
            out = self.language(
                inputs_embeds=prompt, attention_mask=may_look.long(), decoder_input_ids=begun, use_cache=False
            )
        return out.logits[0], answer[said]

    def _last_states(self, batch: Batch) -> Float[Tensor, "E D"]:
        """What the decoder makes of each prompt before it says a word: its output at the token that it begins with."""
        _unpacked(batch)
        prompt, may_look = _together(self._embed(batch), batch.attention_mask)
        mask = may_look.long()
        read = self.language.get_encoder()(inputs_embeds=prompt, attention_mask=mask).last_hidden_state
        begun = torch.full_like(mask[:, :1], self._start)
        said = self.language.get_decoder()(
            input_ids=begun, encoder_hidden_states=read, encoder_attention_mask=mask, use_cache=False
        )
        return said.last_hidden_state[:, 0]

    @property
    def _start(self) -> int:
        """The token that a decoder begins with."""
        return int(self.language.config.decoder_start_token_id)

    def blocks(self, tower: Tower) -> list[nn.Module]:
        """The encoder's blocks, then the decoder's."""
        if tower != "language":
            return super().blocks(tower)
        halves = (self.language.get_encoder(), self.language.get_decoder())
        return [block for half in halves for block in next(m for m in half.children() if isinstance(m, nn.ModuleList))]

    @torch.no_grad()
    def _steps(self, batch: Batch, max_new_tokens: int) -> Iterator[Step]:
        prompt, may_look = _together(self._embed(batch), batch.attention_mask)
        mask, ends = may_look.long(), torch.tensor(self.eos_ids, device=may_look.device)
        read = self.language.get_encoder()(inputs_embeds=prompt, attention_mask=mask)
        token, cache = torch.full_like(mask[:, 0], self._start), None
        done = torch.zeros_like(token, dtype=torch.bool)
        for _ in range(max_new_tokens):
            out = self.language(
                encoder_outputs=read,
                attention_mask=mask,
                decoder_input_ids=token[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            (token, log_p), cache = likeliest(out.logits[:, -1]), out.past_key_values
            yield token, log_p
            done = done | torch.isin(token, ends)
            if bool(done.all()):
                return


def _unpacked(batch: Batch) -> None:
    if batch.packed:
        what = "an encoder-decoder reads one prompt a sequence, so examples cannot be packed"
        raise UserError(what, where="stages", fix="set pack: none in every stage")


def _together(values: Tensor, kept: Bool[Tensor, "B T"]) -> tuple[Tensor, Bool[Tensor, "B A"]]:
    """The kept places of each line side by side from its left, in order, and which of the result are kept ones."""
    count = kept.sum(1)
    length = int(count.max())
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    index = order if values.ndim == 2 else order[:, :, None].expand(-1, -1, values.shape[2])
    return values.gather(1, index), torch.arange(length, device=kept.device) < count[:, None]
