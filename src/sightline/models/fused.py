"""A pair model whose texts look at images: the text tower's last blocks cross-attend to the image's tokens (ALBEF).

Li et al. 2021 (arXiv 2107.07651), section 3.1: of BERT's blocks the first read the text alone, and what they say is
compared with the image; the last are given cross-attention, and what they say is matched and fills in masked words. The
blocks themselves are transformers' `BertLayer`. The first are the `language` tower; the last, with the heads, are
`connector`, since they join the two others.

Section 3.2 and 3.3: with `fusion.momentum` the model carries a slow copy of its towers, with `fusion.queue` the pairs
that the copy embedded last. Both are saved with every checkpoint and left out of the exported model.

Shapes: N images, B pairs, K judged pairs, P vision tokens, T text tokens, D vision width, H text width, S masked words,
V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.connectors.q_former import Writer
from sightline.models.export import WEIGHTS, plain_state, write_weights
from sightline.models.momentum import follow, slow_copy
from sightline.models.pair import PairVLM
from sightline.models.pair_head import PairHead
from sightline.models.pairs import Pairs
from sightline.models.queue import Queue
from sightline.models.recompute import recompute
from sightline.models.vision import VisionTower
from sightline.recipe.schema import TOWERS, Fusion, Pair, Tower

WHERE = "model.pair.fusion"
NAMES = 2  # numbers that name a pair in the queue: its image and its text
COMPARING = ("image_projection", "text_projection", "temperature", "attention")  # what only a comparison reaches


class FusedHead(PairHead):
    """The connector: besides `PairHead`, the fusing blocks, and the heads that judge a pair and name masked words."""

    def __init__(self, vision: VisionTower, text: BertModel, spec: Pair) -> None:
        super().__init__(vision, text.config.hidden_size, spec)
        assert spec.fusion is not None
        self.config = copy.deepcopy(text.config)
        self.fusion = fusing_blocks(text, spec.fusion.blocks, vision.width)
        self.matcher = nn.Linear(text.config.hidden_size, 2)
        self.words = Writer(text.config.hidden_size, text.config.vocab_size, text.config.layer_norm_eps)

    def fuse(
        self, hidden: Float[Tensor, "K T H"], attention_mask: Bool[Tensor, "K T"], seen: Float[Tensor, "K P D"]
    ) -> Float[Tensor, "K T H"]:
        """The text after it has looked at the image. `seen`: the image's tokens, behind `norm`."""
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=attention_mask.long())
        for block in self.fusion:
            hidden = block(hidden, mask, seen)
        return hidden


class FusedPairVLM(PairVLM):
    """See the module.

    `teacher`: the slow copy, in evaluation mode and without gradients. `queue`: what it embedded last, under the
    numbers of image and text. None where the recipe asks for none.
    """

    heads = frozenset({"itm", "mlm"})
    teacher: FusedPairVLM | None
    queue: Queue | None

    def __init__(self, vision: Any, language: Any, *, spec: Pair) -> None:
        super().__init__(vision, language, spec=spec)
        assert spec.fusion is not None
        self.teacher = self.queue = None
        if spec.fusion.momentum is not None:
            self.teacher = cast(FusedPairVLM, slow_copy(self))
        if spec.fusion.queue is not None:
            self.queue = Queue(spec.fusion.queue, spec.embed, ids=NAMES)

    @property
    def slow(self) -> FusedPairVLM | None:
        return self.teacher

    def make_head(self, language: Any) -> PairHead:
        return FusedHead(self.vision, language, self.spec)

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        idle = super().idle(tower, objective)
        if tower != "connector":
            return idle
        unread = {"matcher"} if "itm" not in objective else set()
        unread |= {"words"} if "mlm" not in objective else set()
        unread |= {"fusion"} if not {"itm", "mlm"} & set(objective) else set()
        unread |= set(COMPARING) if not {"itc", "sigmoid"} & set(objective) else set()
        return idle | {name for name, _ in self.tower_parameters(tower) if name.split(".")[1] in unread}

    def train(self, mode: bool = True) -> Self:
        """See `VLM.train`. The teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def set_gradient_checkpointing(self, on: bool) -> None:
        super().set_gradient_checkpointing(on)
        recompute(list(self.connector.fusion), on)  # type: ignore[arg-type]

    def represent(self, batch: Batch, heads: Collection[str] = ()) -> Pairs:
        """See `PairModel`. Each distinct image is encoded once."""
        features, index = self.features_of(batch), batch.image_index
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.connector.dtype)
        image = self.embed_image_features(features).index_select(0, index)
        text = self.embed_texts(batch.input_ids, batch.attention_mask)
        return Pairs(image, text, self.connector.norm(features).index_select(0, index))

    def match(
        self, seen: Float[Tensor, "K P D"], input_ids: Int[Tensor, "K T"], attention_mask: Bool[Tensor, "K T"]
    ) -> Float[Tensor, "K 2"]:
        """See `PairModel`. Read at the first token."""
        head = cast(FusedHead, self.connector)
        return head.matcher(head.fuse(self.read(input_ids, attention_mask), attention_mask, seen)[:, 0])

    def unmask(
        self, seen: Float[Tensor, "B P D"], input_ids: Int[Tensor, "B T"], batch: Batch, where: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "S V"]:
        """See `PairModel`. The output matrix is the word embeddings, as in BERT."""
        head, mask = cast(FusedHead, self.connector), batch.attention_mask
        hidden = head.fuse(self.read(input_ids, mask), mask, seen)[where]
        return head.words(hidden, self.language.get_input_embeddings().weight)

    def follow(self) -> None:
        """Let the slow copy, where there is one, come nearer (once after each optimizer step)."""
        if self.teacher is None:
            return
        assert self.spec.fusion is not None and self.spec.fusion.momentum is not None
        for tower in TOWERS:
            follow(getattr(self.teacher, tower), getattr(self, tower), self.spec.fusion.momentum)

    def save(self, folder: Path) -> str:
        """See `VLM.save`. What only training needs stays behind."""
        bare = cast(Fusion, self.spec.fusion).model_copy(update={"momentum": None, "queue": None})
        self.write_description(folder, self.spec.model_copy(update={"fusion": bare}))
        state = {
            name: value for name, value in plain_state(self).items() if not name.startswith(("teacher.", "queue."))
        }
        write_weights(state, folder / WEIGHTS)
        return f"sightline.models.saved.load_model({str(folder)!r})"


def fusing_blocks(text: BertModel, count: int, vision_width: int) -> nn.ModuleList:
    """Take the last `count` blocks from `text`; they come back with cross-attention, which starts fresh.

    Raises:
        UserError: a text tower that is no BERT, or has no block left to read the text alone.
    """
    config = text.config
    if not isinstance(config, BertConfig):
        what = f"only a BERT's blocks can be given cross-attention, and the text tower is a {config.model_type}"
        raise UserError(what, where=WHERE, fix="set model.pair.language to a BERT, or leave fusion out")
    if count >= len(text.encoder.layer):
        what = f"{count} of {len(text.encoder.layer)} blocks look at the image, so none reads the text alone"
        raise UserError(what, where=f"{WHERE}.blocks", fix="lower it, e.g. to half of the blocks")
    wider = copy.deepcopy(config)
    wider.is_decoder = wider.add_cross_attention = True  # transformers asks for both; every mask here is both-sided
    keep = len(text.encoder.layer) - count
    blocks = nn.ModuleList(_with_sight(block, wider, vision_width) for block in text.encoder.layer[keep:])
    del text.encoder.layer[keep:]
    config.num_hidden_layers = keep
    return blocks


def _with_sight(block: BertLayer, config: BertConfig, vision_width: int) -> BertLayer:
    made = BertLayer(config)
    made.attention.self.is_causal = False
    sight = made.crossattention.self
    sight.key, sight.value = (nn.Linear(vision_width, sight.all_head_size) for _ in range(2))
    for module in made.crossattention.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            nn.init.zeros_(module.bias)
    made.load_state_dict(block.state_dict() | {n: t for n, t in made.state_dict().items() if "crossattention" in n})
    return made.to(next(block.parameters()).dtype)
