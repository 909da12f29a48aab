"""A Q-Former's start from a pretrained BERT: its layers, its word embeddings and its prediction head.

BLIP-2 (arXiv 2301.12597, section 3.1) starts from BERT-base; the cross-attention layers, which BERT lacks, start fresh.
BERT's embedding of the first segment is added to every word's position, which is where it acted.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from sightline.errors import UserError
from sightline.models.connectors.q_former import WHERE, QFormer, own_layers
from sightline.models.origin import read_or_explain

LAYERS = (
    (r"^bert\.encoder\.layer\.(\d+)\.attention\.self\.", r"body.encoder.layer.\1.attention.attention."),
    (r"^bert\.encoder\.layer\.(\d+)\.", r"body.encoder.layer.\1."),
    (r"^bert\.embeddings\.LayerNorm\.", "body.layernorm."),
    (r"^bert\.embeddings\.(word|position)_embeddings\.", r"words.\1_embeddings."),
    (r"^cls\.predictions\.transform\.dense\.", "writer.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "writer.norm."),
    (r"^cls\.predictions\.bias$", "writer.bias"),
)


@torch.no_grad()
def start_from_bert(former: QFormer, source: str) -> None:
    """Load what a BERT at `source` (hub id or folder) has.

    Raises:
        UserError: `source` cannot be read, is no BERT, or is of another size; the Q-Former's layers are no BERT's.
    """
    where = f"{WHERE}.source"
    if own_layers(former.layers.model_copy(update={"path_dropout": 0.0})):
        what = "a BERT's layers have LayerNorms behind their sums and no others: its weights mean nothing in these"
        raise UserError(what, where=f"{WHERE}.layers", fix="leave out layers, or source")
    model = read_or_explain(lambda: AutoModelForMaskedLM.from_pretrained(source), source, where)
    if model.config.model_type != "bert":
        raise UserError(f"'{source}' is a {model.config.model_type}", where=where, fix="give a BERT")
    state = model.state_dict()
    segment = state.pop("bert.embeddings.token_type_embeddings.weight")[0]
    state["bert.embeddings.position_embeddings.weight"] = state["bert.embeddings.position_embeddings.weight"] + segment
    own, missed = dict(former.named_parameters()), []
    for name, value in state.items():
        ours = _renamed(name)
        if ours is None:
            continue
        if ours not in own or not _fits(own[ours], value, ours):
            missed.append(f"{name} {tuple(value.shape)}")
            continue
        own[ours][: len(value)] = value  # the vocabulary has [DEC] behind BERT's words
    if missed:
        fix = f"set {WHERE}.config to the sizes in its config.json"
        raise UserError(f"'{source}' does not fit the Q-Former: {missed[0]}, ...", where=where, fix=fix)
    former.copy_layers()


def _renamed(name: str) -> str | None:
    for pattern, ours in LAYERS:
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return None


def _fits(own: Tensor, value: Tensor, name: str) -> bool:
    grows = name in ("words.word_embeddings.weight", "writer.bias")
    return own.shape[1:] == value.shape[1:] and (len(own) >= len(value) if grows else len(own) == len(value))
