"""Encoder of models whose language tower is an encoder-decoder: the prompt is read, the last answer is written."""

from __future__ import annotations

from sightline.data.batch import IGNORE, Example
from sightline.data.encode import validate
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.row import Row
from sightline.data.templates import Segment


class Seq2SeqEncoder(ComposedEncoder):
    """A row's tokens are its prompt, closed by the end token, then its last answer and the end token, the only labels.

    Earlier answers of a conversation are part of its prompt, and teach nothing. In a batch both parts stand in one
    line; `models.seq2seq` gives the first to the encoder and the second to the decoder.
    """

    def encode(self, row: Row) -> Example:
        """See `Encoder.encode`. Raises RowError."""
        validate(row)
        prompt = self.encode_prompt(row)
        if row.turns[-1].role != "assistant":
            return prompt
        answer = (*self._tokens(Segment("content", "assistant", row.answer), row), self.eos_id)
        labels = (IGNORE,) * len(prompt) + answer
        return Example(row.where, prompt.input_ids + answer, labels, row.images)

    def encode_prompt(self, row: Row) -> Example:
        """See `Encoder.encode_prompt`. Raises RowError."""
        prompt = super().encode_prompt(row)
        ids = (*prompt.input_ids, self.eos_id)
        return Example(row.where, ids, (IGNORE,) * len(ids), row.images)
