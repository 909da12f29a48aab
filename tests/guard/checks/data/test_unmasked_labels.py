"""L2 on bare evidence: what labels say, and what only the gradient says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sightline.guard.check import Finding
from sightline.guard.checks.data.unmasked_labels import find
from sightline.guard.evidence import IGNORE, BatchSeen, DataSeen, LossSeen

IDS = torch.tensor([[5, 6, 7, 8], [5, 9, 7, 6]])
ANSWERS = torch.tensor([[IGNORE, IGNORE, 7, 8], [IGNORE, IGNORE, 7, 6]])


def batch(labels: torch.Tensor | None) -> BatchSeen:
    return BatchSeen(phase="train", step=1, input_ids=IDS, labels=labels, attention_mask=torch.ones_like(IDS).bool())


def loss(targets: torch.Tensor) -> LossSeen:
    shown: dict[str, Any] = {"step": 1, "micro": 0, "supervised": int((targets != IGNORE).sum()), "weight": 0.25}
    return LossSeen(**shown, targets=targets, input_ids=IDS, softmax_rows=1.0, probability_rows=0.0)


def test_answers_alone_are_well() -> None:
    assert find(batch(ANSWERS)) is None


def test_a_row_whose_labels_are_all_masked() -> None:
    empty = ANSWERS.clone()
    empty[1] = IGNORE
    found = find(batch(empty))
    assert isinstance(found, Finding) and found.severity == "warning"
    assert "1 of 2 rows have no supervised token" in found.message
    everything = find(batch(torch.full_like(ANSWERS, IGNORE)))
    assert isinstance(everything, Finding) and everything.severity == "error"


def test_a_row_known_by_heart_has_no_gradient_and_is_no_fault() -> None:
    """Labels unseen, and one row's gradient exactly 0: it may be supervised and simply be right."""
    targets = torch.tensor([[IGNORE, 7, 8, IGNORE], [IGNORE, IGNORE, IGNORE, IGNORE]])
    assert not isinstance(find(batch(None), loss(targets)), Finding)


def test_random_masking_may_spare_a_row() -> None:
    """Masked language modelling: labels are the words behind the masks, and a short row may have none."""
    labels = torch.full_like(IDS, IGNORE)
    labels[0, 2] = 3  # the input there is a mask token, not the word
    assert not isinstance(find(batch(labels)), Finding)


def test_shifted_twice_and_hidden_words_of_a_text_that_repeats_itself() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 4]])
    twice = loss(torch.tensor([[7, 8, 9, 4, IGNORE, IGNORE]]))
    found = find(batch(None), replace(twice, input_ids=ids))
    assert isinstance(found, Finding) and "the token after the next" in found.message
    hidden = torch.tensor([[3, 6, 5, 3, 5, 6]])  # 5 6 5 6 5 6, with 3 for what is hidden
    targets = torch.tensor([[5, IGNORE, IGNORE, 6, IGNORE, IGNORE]])
    assert not isinstance(find(batch(None), replace(twice, supervised=2, targets=targets, input_ids=hidden)), Finding)


@pytest.mark.parametrize("away", [False, True], ids=["towards", "away, by its gradient"])
def test_its_own_token_and_a_loss_that_leads_away(away: bool) -> None:
    found = find(batch(None), replace(loss(IDS), log_z=2.0, loss=None if away else 1.0))
    assert isinstance(found, Finding) is not away and (away or "its own token" in found.message)


def hidden_words(*, exchanged: float = 0.1, whole: bool = True, share: float = 0.15, rows: int = 16) -> Any:
    """Words 5 and on, chosen with that share: of them so many are exchanged, as many stay, and others are masked by 1.

    All words are taught, or the chosen alone.
    """
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(5, 60, (rows, 48), generator=draw)
    chosen, dice = torch.rand(words.shape, generator=draw) < share, torch.rand(words.shape, generator=draw)
    ids = words.masked_fill(chosen & (dice >= 2 * exchanged), 1)
    ids = torch.where(chosen & (dice < exchanged), words.flip(1), ids)
    targets = words if whole else words.masked_fill(~chosen, IGNORE)
    seen = LossSeen(1, 0, words.numel(), 0.1, 1.0, 0.0, ids, targets, log_z=4.0, loss=4.0)
    return find(BatchSeen("train", 1, ids, None), seen)


def test_words_that_are_shown_are_taught_with_those_that_are_hidden() -> None:
    found = hidden_words()
    assert isinstance(found, Finding) and found.severity == "warning" and "and are not hidden" in found.message
    assert not isinstance(hidden_words(whole=False), Finding)  # as BERT is taught
    assert not isinstance(hidden_words(exchanged=0.0), Finding)  # a puzzle, or a picture with holes
    assert not isinstance(hidden_words(exchanged=0.3, share=0.2), Finding)  # a text that is corrected
    assert not isinstance(hidden_words(share=0.5), Finding)  # a diffusion
    assert not isinstance(hidden_words(rows=4), Finding)


ENDS = torch.tensor([[5, 6, 7, 1, 0, 0], [5, 9, 1, 0, 0, 0], [4, 1, 0, 0, 0, 0], [8, 7, 6, 5, 3, 1]])


def answered(labels: torch.Tensor, supervised: int, pad: int | None = 0) -> Any:
    """An encoder's ids of another length, the decoder's labels, and how many of them had a gradient."""
    ids = torch.ones((len(labels), 9), dtype=torch.long)
    given = BatchSeen("train", 1, input_ids=ids, labels=labels, pad_id=pad)
    return find(given, LossSeen(1, 0, supervised, 0.1, softmax_rows=1.0, probability_rows=0.0))


def test_a_decoder_that_learns_to_pad() -> None:
    found = answered(ENDS, 24)
    assert isinstance(found, Finding) and found.message == "9 padding tokens are supervised"
    assert found.fix == "ignore_index=0 in the loss, or labels[labels == 0] = -100"


@pytest.mark.parametrize(
    ("labels", "supervised", "pad"),
    [
        (ENDS, 15, 0),
        (ENDS, 24, None),
        (ENDS.masked_fill(ENDS == 0, IGNORE), 15, 0),
        (torch.tensor([[5, 0, 7, 1, 0, 0], [5, 9, 1, 0, 0, 0]]), 12, 0),
        (torch.tensor([[5, 6, 0, 0], [5, 9, 0, 0]]), 8, 0),
    ],
    ids=["the loss leaves it out", "no pad id", "masked", "a token of the text", "all of one length"],
)
def test_ends_that_are_well(labels: torch.Tensor, supervised: int, pad: int | None) -> None:
    assert not isinstance(answered(labels, supervised, pad), Finding)


WORDS = ("<pad>", "</s>", "User:", "\nBot:", "and", "why", "so", "yes", "it", "is")


def talks(*later: bool, prompt: bool = False, rows: int = 6, talking: int = 6) -> Any:
    """Two turns each; whether the second one's tag, its two words and the head of its answer are taught. Some rows have
    one turn alone, in whose answer nobody asks."""
    ids = torch.tensor([[2, 4 + n % 3, 5, 3, 7, 1, 2, 6, 5 + n % 4, 3, 8, 1] for n in range(rows)])
    ids[talking:, 6:10] = torch.tensor([9, 9, 9, 9])
    taught = torch.tensor([prompt] * 4 + [True] * 2 + [later[0], later[1], later[1], later[2]] + [True] * 2)
    given = BatchSeen("train", 1, ids, ids.where(taught, IGNORE), decode=lambda ids: " ".join(WORDS[i] for i in ids))
    return find(given)


def test_later_turns_of_the_user_are_taught() -> None:
    found = talks(True, True, True)
    assert isinstance(found, Finding) and "6 of 6 rows supervise what the user says" in found.message
    assert isinstance(talks(True, True, True, talking=4), Finding)
    assert talks(False, False, False) is None  # answers alone
    assert talks(True, False, False) is None  # answers end in the user's tag
    assert talks(True, False, True) is None  # tags, and nothing of his
    assert talks(True, True, True, prompt=True) is None  # a text, taught from its begin
    assert talks(True, True, True, talking=2) is None  # what an answer quotes
    assert talks(True, True, True, rows=3) is None


EOS = 2  # is the pad id as well
LEFT = torch.tensor([[EOS, EOS, 1, 5, 6, EOS], [EOS, 1, 5, 7, 8, EOS], [1, 5, 6, 7, 9, EOS], [1, 5, 9, 8, 7, EOS]])
RIGHT = torch.tensor([[1, 5, 6, EOS, EOS, EOS], [1, 5, 7, 8, EOS, EOS], [1, 5, 6, 7, 9, EOS], [1, 5, 9, 8, 7, EOS]])
TURNS = torch.tensor([[1, 5, EOS, 6, 8, 7, EOS, EOS], [EOS, EOS, EOS, 1, 5, EOS, 7, EOS]])  # an answer of no words


def end_taught(ids: torch.Tensor, real: torch.Tensor | None, own: torch.Tensor, given: bool) -> Any:
    """Next tokens are taught where `own` says so of a token, which is the pad id too."""
    labels = ids.masked_fill(~own, IGNORE)
    targets = torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)), 1)
    shown = BatchSeen("train", 1, ids, labels if given else None, attention_mask=real, pad_id=EOS)
    return find(shown, replace(loss(targets), input_ids=ids))


@pytest.mark.parametrize("given", [True, False], ids=["labels given", "labels seen by the gradient alone"])
@pytest.mark.parametrize("masked", [True, False], ids=["with a mask", "without one"])
@pytest.mark.parametrize(
    ("ids", "lengths", "left"),
    [(LEFT, (4, 5, 6, 6), True), (RIGHT, (4, 5, 6, 6), False), (TURNS, (8, 5), True)],
    ids=["left", "right", "turns that end alike"],
)
def test_an_end_that_is_the_pad_id_too_may_be_taught(
    ids: torch.Tensor, lengths: tuple[int, ...], left: bool, masked: bool, given: bool
) -> None:
    places = torch.arange(ids.shape[1])
    real = places < torch.tensor(lengths)[:, None]
    real = real.flip(1) if left else real
    assert not isinstance(end_taught(ids, real if masked else None, real, given), Finding)
    if not left:  # the same rows with all of their padding taught
        found = end_taught(ids, real if masked else None, real | True, given)
        assert isinstance(found, Finding) and "padding tokens are supervised" in found.message


def test_padding_at_the_last_steps_where_time_comes_first() -> None:
    targets = torch.tensor([[5, 6, 7, 8, 9, 4], [5, 7, 6, 0, 0, 0]]).T
    shown = BatchSeen("train", 1, targets + 10, None, pad_id=0)
    found = find(shown, replace(loss(targets), input_ids=targets + 10))
    assert isinstance(found, Finding) and found.message == "3 padding tokens are supervised"


ROW = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1], "labels": [5, 6, 7, 8]}


@pytest.mark.parametrize(
    ("row", "whole", "found"),
    [
        (ROW, False, True),
        (ROW, True, False),  # the trainer's default, which nobody asked for
        ({**ROW, "labels": [-100, -100, 7, 8]}, False, False),
        ({**ROW, "labels": [5, -100, 7, 8]}, False, False),  # nothing predicts the first token
        ({**ROW, "completion_mask": [1, 1, 1, 1]}, False, False),
        ({"labels": ROW["labels"]}, False, False),
    ],
)
def test_prompts_that_the_data_set_tells_apart(row: dict[str, list[int]], whole: bool, found: bool) -> None:
    labels = torch.tensor([row["labels"]])
    data = DataSeen(0, tuple(row), (row,), whole=whole)
    batch = BatchSeen(step=0, phase="train", input_ids=torch.tensor([ROW["input_ids"]]), labels=labels)
    verdict = find(batch, None, data)
    assert isinstance(verdict, Finding) is found and (not found or "supervise their prompt" in verdict.message)


@pytest.mark.parametrize("pads", [False, True])
def test_tags_whose_first_has_the_number_of_padding(pads: bool) -> None:
    ids = torch.tensor([[5, 7, 9, 6], [8, 4, 3, 0], [6, 9, 0, 0]])
    tags = torch.tensor([[1, 2, 1, 0], [2, 0, 0, IGNORE], [1, 0, IGNORE, IGNORE]])
    if pads:  # of a kind that real tokens do not have
        tags = torch.tensor([[1, 2, 1, 1], [2, 1, 2, 0], [1, 2, 0, 0]])
    loss = LossSeen(0, 0, 9, 1.0, 1.0, 0.0, ids, tags, classes=3)
    assert loss.padding(0) == (3 if pads else 0)


@pytest.mark.parametrize("words", [False, True])
def test_tags_at_the_ends_of_rows_that_are_masked(words: bool) -> None:
    """Read off the gradient: their first class has the number of padding, which words have as well."""
    ids = torch.tensor([[5, 7, 9, 6], [8, 4, 3, 0], [6, 9, 5, 4]])
    tags = torch.tensor([[1, 0, 0, 2], [2, 1, 0, IGNORE], [1, 2, 1, 1]])
    if words:
        tags = torch.tensor([[7, 9, 0, 0], [4, 3, 1, 0], [9, 0, 0, 0]])
    taught = int((tags != IGNORE).sum())
    seen = LossSeen(1, 0, taught, 1.0, 1.0, 0.0, ids, tags, classes=10 if words else 3)
    assert isinstance(find(BatchSeen("train", 1, pad_id=0), seen), Finding) is words


def test_images_among_the_ids_are_no_words() -> None:
    """Their places have ids below 0, which no tokenizer knows."""
    batch = BatchSeen("train", 1, decode=lambda ids: " ".join("abc"[i] for i in ids))
    assert batch.text([-1, -1, 0, 2]) == "a c"


SPOKEN = ["<pad>", "user", ":", "assistant", "</s>", "what", "colour", "it", "is", "red", "blue", "<img>"]


@pytest.mark.parametrize("told", ["all", "answers", "heads", "images masked", "no template", "later", "each answer"])
def test_turns_of_the_scripts_own_template(told: str) -> None:
    """A tag that nobody knows: it is read off the template that the script applied."""
    prompt, answer = [1, 2, 11, 11, 5, 6, 8, 7], [3, 2, 7, 8, 9, 4]
    ids = torch.tensor([prompt + answer] * 4)
    labels = ids.clone()
    if told in ("later", "each answer"):
        ids = torch.cat([ids, ids], dim=1)
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), IGNORE)
        if told == "each answer":  # and the user's tag, where an answer ends
            labels[:, len(prompt + answer) + 2 : len(prompt + answer) + len(prompt)] = IGNORE
    if told == "images masked":
        labels[ids == 11] = IGNORE
    if told in ("answers", "heads"):
        labels[:, : len(prompt) + 2 * (told == "answers")] = IGNORE
    heads = None if told == "no template" else ("user:", "assistant:")
    seen = BatchSeen("train", 1, ids, labels, decode=lambda one: " ".join(SPOKEN[i] for i in one), heads=heads)
    found = find(seen)
    assert (isinstance(found, Finding) and "what the user says" in found.message) == (
        told in ("all", "images masked", "later")
    )
