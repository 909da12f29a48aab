"""Packing: every example once, within the limit, seeing exactly what it would see alone."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sightline.data.batch import IGNORE, PAD_GROUP, PREFIX, Example
from sightline.data.collate import pad
from sightline.data.encode import RowError
from sightline.data.pack import block_mask, pack, within
from sightline.data.row import ImageRef, Where
from sightline.errors import UserError


def example(number: int, prefix: int, own: int, image: str | None, answer_first: bool = False) -> Example:
    """`prefix` tokens that belong to `image`, then `own` tokens, the last two (or all) supervised."""
    shared = [10 + ord(image or "a") % 7] * prefix
    rest = [20 + (number * 7 + i * 3) % 60 for i in range(own)]
    labels = [IGNORE] * prefix + (rest if answer_first else [IGNORE] * (own - 2) + rest[-2:])
    images = (ImageRef(image),) if image else ()
    return Example(Where("made.json", number), tuple(shared + rest), tuple(labels), images, prefix if image else 0)


EXAMPLES = [
    example(1, 4, 5, "a"),
    example(2, 4, 3, "b"),
    example(3, 4, 6, "a"),
    example(4, 0, 7, None),
    example(5, 4, 4, "a"),
    example(6, 4, 5, "c", answer_first=True),
    example(7, 4, 3, "c", answer_first=True),
    example(8, 4, 4, "b"),
]


@pytest.mark.parametrize("limit", [10, 16, 40])
@pytest.mark.parametrize("mode", ["none", "image", "length"])
def test_each_example_once_and_within_the_limit(mode: str, limit: int) -> None:
    """Laws of every mode: nothing lost, nothing doubled, no supervised token fewer or more."""
    sequences = pack(EXAMPLES, mode, limit)
    assert sorted(place.row for s in sequences for place in s.examples) == list(range(1, 9))
    for sequence in sequences:
        fields = (sequence.input_ids, sequence.labels, sequence.position_ids, sequence.group_ids, sequence.segment_ids)
        assert {len(field) for field in fields} == {len(sequence)} and len(sequence) <= limit
    supervised = sum(label != IGNORE for s in sequences for label in s.labels[1:])
    assert supervised == sum(label != IGNORE for e in EXAMPLES for label in e.labels[1:])


def test_examples_of_one_image_share_its_prefix() -> None:
    """Three questions on image "a" need its prefix once; a fourth that does not fit opens another sequence."""
    by_first = {s.examples[0].row: s for s in pack(EXAMPLES, "image", 40)}
    assert [place.row for place in by_first[1].examples] == [1, 3, 5]
    assert len(by_first[1]) == 4 + 5 + 6 + 4
    assert by_first[1].segment_ids == (PREFIX,) * 4 + (1,) * 5 + (2,) * 6 + (3,) * 4
    assert by_first[1].position_ids == (*range(9), *range(4, 10), *range(4, 8))
    assert len(by_first[1].images) == 1
    tight = pack(EXAMPLES, "image", 15)
    assert [place.row for place in tight[0].examples] == [1, 3] and len(tight[0]) == 15


def test_other_prefix_or_supervised_start_is_not_shared() -> None:
    """One system text differs, or the first own token is the answer: they stay apart."""
    other = Example(Where("made.json", 9), (99, *EXAMPLES[0].input_ids[1:]), EXAMPLES[0].labels, EXAMPLES[0].images, 4)
    assert len(pack([EXAMPLES[0], other], "image", 40)) == 2
    assert len(pack(EXAMPLES[5:7], "image", 40)) == 2


def test_length_fills_sequences_first_fit() -> None:
    """Against first-fit written the slow way."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, 30, (300,), generator=generator).tolist()
    examples = [example(n, 0, size, None) for n, size in enumerate(sizes)]
    bins: list[list[int]] = []
    for number, size in enumerate(sizes):
        fitting = next((b for b in bins if sum(sizes[i] for i in b) + size <= 64), None)
        if fitting is None:
            bins.append([number])
        else:
            fitting.append(number)
    assert [[place.row for place in s.examples] for s in pack(examples, "length", 64)] == bins


@pytest.mark.parametrize("left", [False, True])
def test_block_mask_is_the_rule(left: bool) -> None:
    """Token by token against the sentence in `Sequence`'s docstring; padding sees padding alone."""
    fields = pad(pack(EXAMPLES, "length", 30), pad_id=0, left=left)
    groups, segments = fields["group_ids"], fields["segment_ids"]
    mask = block_mask(groups, segments)
    assert mask.shape == (len(groups), 1, groups.shape[1], groups.shape[1])
    for b in range(len(groups)):
        for i in range(groups.shape[1]):
            for j in range(groups.shape[1]):
                rule = j <= i and groups[b, i] == groups[b, j] and segments[b, j] in (PREFIX, segments[b, i])
                assert mask[b, 0, i, j] == rule
    assert mask.any(-1).all()
    assert ((groups == PAD_GROUP) == ~fields["attention_mask"]).all()


@pytest.mark.parametrize("mode", ["image", "length"])
def test_packed_loss_and_gradients_are_those_of_separate_rows(mode: str) -> None:
    """A real (tiny) language model: summed loss and every gradient agree to 1e-5 in fp32."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=64)  # fmt: skip
    model = LlamaForCausalLM(config).eval()

    def run(how: str) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        fields = pad(pack(EXAMPLES, how, 48), pad_id=0, left=False)
        mask = block_mask(fields["group_ids"], fields["segment_ids"])
        logits = model(
            input_ids=fields["input_ids"],
            position_ids=fields["position_ids"],
            attention_mask=torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min),
        ).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), fields["labels"][:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
        )
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    separate, packed = run("none"), run(mode)
    assert packed[0] == pytest.approx(separate[0], rel=1e-5)
    for mine, theirs in zip(packed[1], separate[1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_long_rows_are_an_error_or_counted() -> None:
    """Never cut: named with both lengths, or skipped with the reason."""
    with pytest.raises(RowError, match=r"made.json row 3: 10 tokens, more than max_length 9"):
        within(EXAMPLES, 9, "error")
    kept, skipped = within(EXAMPLES, 9, "skip")
    assert len(kept) == 7 and [(s.where.row, s.reason) for s in skipped] == [(3, "10 tokens, more than max_length 9")]
    with pytest.raises(UserError, match="every one of 8 rows"):
        within(EXAMPLES, 5, "skip")
    with pytest.raises(RowError):
        pack(EXAMPLES, "length", 9)
