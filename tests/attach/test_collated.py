"""I5 for batches whose collate function parts what belongs together, or means to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Subset

from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding
from sightline.guard.checks.data.batch_collapsed import find
from sightline.guard.probes.collated import collated

Pair = tuple[Tensor, Tensor]
DRAW = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(2, 12, (32,), generator=DRAW).tolist()
ROWS: list[Any] = [(torch.randn(3, 4, 4, generator=DRAW), torch.randint(1, 99, (n,), generator=DRAW)) for n in LENGTHS]


def padded(texts: list[Tensor]) -> tuple[Tensor, list[int]]:
    return pad_sequence(texts, batch_first=True), [len(text) for text in texts]


def texts_alone(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), *padded(sorted(texts, key=len, reverse=True))


def whole_samples(data: list[Pair]) -> Any:
    data.sort(key=lambda one: len(one[1]), reverse=True)
    images, texts = zip(*data, strict=True)
    return torch.stack(images), *padded(list(texts))


def told_the_order(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    return torch.stack(images), *padded([texts[i] for i in order]), torch.tensor(order)


def told_which_match(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), padded(list(texts[1:] + texts[:1]))[0], torch.zeros(len(texts))


def with_others(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return {"x": torch.stack(images), "text": padded(list(texts))[0], "other": padded(list(texts[1:] + texts[:1]))[0]}


def mixed(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    x = torch.stack(images)
    return 0.7 * x + 0.3 * x.flip(0), *padded(list(texts))


def by_length(texts: Any) -> list[Tensor]:
    return sorted(texts, key=len, reverse=True)


def moved_on(data: list[Pair]) -> Any:
    """What is read and what is to be said next, and how much of it, which no text of a sample is as it stands."""
    images, texts = zip(*data, strict=True)
    longer = [torch.cat([torch.tensor([99]), text, torch.tensor([98])]) for text in by_length(texts)]
    padded = pad_sequence(longer, batch_first=True)
    return torch.stack(images), padded[:, :-1], padded[:, 1:], torch.tensor([len(text) - 1 for text in longer])


def time_first(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return {
        "image": list(images),
        "text": pad_sequence(by_length(texts)),
        "told": [int(t[0]) for t in by_length(texts)],
    }


def packed(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), pack_sequence(by_length(texts))


def packed_and_unpacked(data: list[Pair]) -> Any:
    """It keeps the order that it sorted them from."""
    images, texts = zip(*data, strict=True)
    return torch.stack(images), pack_sequence(list(texts), enforce_sorted=False)


def of_words(data: list[Pair]) -> Any:
    """Words are made numbers of here."""
    images, texts = zip(*data, strict=True)
    words = [" ".join(map(str, text.tolist())) for text in by_length(texts)]
    return torch.stack(images) / 2, padded([torch.tensor([*map(int, one.split())]) for one in words])[0], words


def with_a_random_other(data: list[Pair]) -> Any:
    """Half of the texts are another picture's, and a label says which."""
    images, texts = zip(*data, strict=True)
    match = torch.rand(len(texts)) > 0.5
    shown = [text if own else texts[i - 1] for i, (text, own) in enumerate(zip(texts, match, strict=True))]
    return torch.stack(images), padded(shown)[0], match.long()


def with_all_others_or_none(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    own = random.random() > 0.5
    return torch.stack(images), padded(list(texts if own else texts[1:] + texts[:1]))[0], [float(own)] * len(texts)


def beside_a_written_other(data: list[Pair]) -> Any:
    """The other text does not look like the own one."""
    images, texts = zip(*data, strict=True)
    others = [torch.cat([torch.tensor([97]), text]) for text in texts[1:] + texts[:1]]
    return torch.stack(images), padded(list(texts))[0], padded(others)[0]


def shuffled_on_purpose(data: list[Pair]) -> Any:
    """Two sets that are not in pairs."""
    images, texts = zip(*data, strict=True)
    return torch.stack(images), padded(random.sample(texts, len(texts)))[0]


def two_texts_each(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), *padded([one for text in texts for one in (text, text.flip(0))])


def ordered_by_numpy(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    order = numpy.argsort([-len(text) for text in texts])
    return torch.stack(images), padded([texts[i] for i in order])[0], order


@pytest.mark.parametrize(
    "collate",
    [
        whole_samples,
        told_the_order,
        told_which_match,
        with_others,
        mixed,
        packed_and_unpacked,
        with_a_random_other,
        with_all_others_or_none,
        beside_a_written_other,
        shuffled_on_purpose,
        two_texts_each,
        ordered_by_numpy,
    ],
    ids=lambda f: f.__name__,
)
def test_batches_that_are_meant(collate: Callable[[list[Pair]], Any]) -> None:
    seen, batch = collated(DataLoader(ROWS, 8, collate_fn=collate), 0)  # type: ignore[arg-type]
    assert seen is None or seen.apart == 0
    assert batch is None or not batch.of_one


def test_names_that_no_model_is_given() -> None:
    def samples_but_for_names(data: list[Any]) -> Any:
        images, texts, _ = zip(*sorted(data, key=lambda one: -len(one[1])), strict=True)
        return torch.stack(images), padded(list(texts))[0], [name for _, _, name in data]

    named: Any = [(image, text, f"{place}.png") for place, (image, text) in enumerate(ROWS)]
    seen, _ = collated(DataLoader(named, 8, collate_fn=samples_but_for_names), 0)
    assert seen is not None and seen.apart == 0


@pytest.mark.parametrize("collate", [texts_alone, moved_on, time_first, packed, of_words], ids=lambda f: f.__name__)
def test_a_part_that_is_sorted_alone(collate: Callable[[list[Pair]], Any]) -> None:
    batches = BatchSampler(RandomSampler(range(len(ROWS))), 8, drop_last=True)
    seen, _ = collated(DataLoader(ROWS, batch_sampler=batches, collate_fn=collate), 0)  # type: ignore[arg-type]
    assert seen is not None and seen.parted

    def sorts_samples(data: list[Pair]) -> Any:
        return collate(sorted(data, key=lambda one: len(one[1]), reverse=True))

    clean, _ = collated(DataLoader(ROWS, 8, collate_fn=sorts_samples), 0)  # type: ignore[arg-type]
    assert clean is not None and clean.apart == 0


@pytest.mark.parametrize("collate", [texts_alone, whole_samples], ids=lambda f: f.__name__)
def test_a_loop(collate: Callable[[list[Pair]], Any], capfd: pytest.CaptureFixture[str]) -> None:
    model: nn.Module = Captioner()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader: DataLoader[Any] = DataLoader(ROWS, 8, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    with attach(model, opt, loader, on_finding=None) as guard:
        for images, texts, _ in (batch for _ in range(3) for batch in loader):
            opt.zero_grad()
            model(images, texts).square().mean().backward()
            opt.step()
    assert [one.code for one in guard.findings if one.code == "I5"] == (["I5"] if collate is texts_alone else [])
    assert capfd.readouterr() == ("", "")


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye, self.table = nn.Linear(48, 8), nn.Embedding(99, 8)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        seen: Tensor = self.eye(images.flatten(1))[:, None] + self.table(texts)
        return seen


def the_first(data: list[Pair]) -> Any:
    image, text = data[0]
    return image[None], text[None]


def the_last(data: list[Pair]) -> Any:
    for image, text in data:
        batch = {"image": image[None], "text": text.tolist()}
    return batch


def one_by_chance(data: list[Pair]) -> Any:
    return the_first([random.choice(data)])


@pytest.mark.parametrize(
    ("collate", "size", "lost"),
    [
        (the_first, 8, True),
        (the_last, 8, True),
        (the_first, 2, True),
        (the_first, 1, False),  # samples that are whole batches
        (one_by_chance, 8, False),
        (whole_samples, 8, False),
    ],
)
def test_samples_that_are_lost(collate: Callable[[list[Pair]], Any], size: int, lost: bool) -> None:
    _, batch = collated(DataLoader(ROWS, size, collate_fn=collate), 0)  # type: ignore[arg-type]
    assert (batch is not None and batch.of_one) == lost
    verdict = find(collated=batch)
    assert isinstance(verdict, Finding) == lost
    assert (
        not isinstance(verdict, Finding) or f"is given {size} samples and goes on with one of them" in verdict.message
    )


def one_picture(data: list[Pair]) -> Any:
    """As `processor(images)["pixel_values"][0]` has it."""
    images, texts = zip(*data, strict=True)
    return {"pixels": torch.stack(images)[0][None], "text": padded(list(texts))[0]}


@pytest.mark.parametrize(("shuffle", "lost"), [(True, True), (False, False)])  # neighbours may share a picture
def test_one_picture_for_all_texts(shuffle: bool, lost: bool) -> None:
    _, batch = collated(DataLoader(ROWS, 8, shuffle=shuffle, collate_fn=one_picture), 0)  # type: ignore[arg-type]
    assert batch is not None and not batch.of_one and batch.part == ("pixels" if lost else "")
    verdict = find(collated=batch)
    assert isinstance(verdict, Finding) == lost
    assert not isinstance(verdict, Finding) or "its 'pixels' is made of one of them" in verdict.message


def test_a_prompt_and_its_answer_in_one_column() -> None:
    """Texts made of two parts of their samples, in another order than the images."""
    asked: Any = [(image, text[:-1], text[-1:]) for image, text in ROWS]

    def in_turn(data: list[Any]) -> Any:
        texts = [torch.cat([prompt, torch.tensor([99]), answer]) for _, prompt, answer in data]
        labels = [torch.cat([-100 * torch.ones_like(prompt), answer]) for _, prompt, answer in data]
        return pad_sequence(texts, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)

    def parted(data: list[Any]) -> Any:
        return torch.stack([one[0] for one in data]), *in_turn(sorted(data, key=lambda one: len(one[1])))

    def together(data: list[Any]) -> Any:
        return parted(sorted(data, key=lambda one: len(one[1])))

    seen, _ = collated(DataLoader(asked, 8, collate_fn=parted), 0)
    assert seen is not None and seen.parted
    seen, _ = collated(DataLoader(asked, 8, collate_fn=together), 0)
    assert seen is not None and seen.apart == 0


class Together(Dataset[Pair]):
    """Reads the samples of a batch at once, as `datasets` does: all of them, or the first alone."""

    def __init__(self, *, first: bool) -> None:
        self.first = first

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, place: int) -> Pair:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[Pair]:
        return [(ROWS[at][0], torch.tensor(at)) for at in (places[:1] if self.first else places)]


@pytest.mark.parametrize("part", [False, True])
def test_samples_that_are_lost_where_all_are_read_at_once(part: bool) -> None:
    for first in (True, False):
        data: Dataset[Pair] = Together(first=first)
        loader = DataLoader(Subset(data, range(20)) if part else data, batch_size=4)
        lost = collated(loader, 0)[1]
        assert (lost is not None) == first
        finding = find(collated=lost)
        assert isinstance(finding, Finding) == first and (
            not isinstance(finding, Finding) or "4 samples" in finding.message
        )
