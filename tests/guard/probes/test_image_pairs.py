"""Swapping images: which batches can show something, and what is swapped when images are lists of patches."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.image_pairs import image_pairs

IDS = torch.tensor([[5, 1, 2], [5, 3, 1], [5, 2, 2]])


class Looker(nn.Module):
    """Adds each image's mean to every token's logits of its row."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rate = nn.Embedding(6, 6), nn.Parameter(torch.linspace(0, 1, 6))

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        means = pictures.reshape(len(tokens), -1).mean(dim=1)
        return self.words(tokens) + means[:, None, None] * self.rate


def pictures(rows: int = 3) -> Tensor:
    return torch.arange(float(rows)).view(-1, 1, 1, 1).expand(rows, 3, 4, 4).contiguous()


def test_images_and_labels_without_names() -> None:
    seen = image_pairs(Call(Looker(), (IDS, pictures())), 1)
    assert seen is not None and seen.changed and len(seen.own) == 3


@pytest.mark.parametrize(("masked", "ahead"), [(True, 0), (True, 1), (False, 0), (False, 1)])
def test_texts_behind_an_image_that_they_do_not_see(masked: bool, ahead: int) -> None:
    """`ahead` 0: the logits are cut so that each stands beside the word that it tells, the image's beside the first."""

    class Prefix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.rate = nn.Embedding(6, 6), nn.Parameter(torch.linspace(0, 1, 6))

        def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
            seen = pictures.mean(dim=(1, 2, 3))[:, None, None] * self.rate
            behind = self.words(tokens) + (0 if masked else seen)
            return torch.cat([seen, behind], dim=1)[:, :-1] if not ahead else behind + seen

    torch.manual_seed(0)
    model, tokens = Prefix(), torch.randint(6, (3, 5))
    with torch.no_grad():
        model.words.weight.copy_(8 * torch.eye(6).roll(1, dims=1))
    tokens = (tokens[:, :1] + torch.arange(5)) % 6  # each tells the next one
    seen = image_pairs(Call(model, (tokens, pictures())), 1)
    assert seen is not None and seen.changed and seen.first_alone == (masked and not ahead)
    assert float(seen.own.max()) < 1.0


def test_images_that_are_all_the_same_show_nothing() -> None:
    assert image_pairs(Call(Looker(), (IDS, torch.ones(3, 3, 4, 4))), 1) is None
    assert image_pairs(Call(Looker(), (IDS[:1], pictures(1))), 1) is None


def test_patches_move_image_by_image() -> None:
    """Three images of four patches: a roll by one patch would mix them."""

    class Patches(Looker):
        def forward(self, input_ids: Tensor, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
            assert all(len(image.unique()) == 1 for image in pixel_values.view(3, -1))
            return super().forward(input_ids, pixel_values)

    patches = torch.arange(3.0).repeat_interleave(4)[:, None].expand(12, 5).contiguous()
    given = {"input_ids": IDS, "pixel_values": patches}
    seen = image_pairs(Call(Patches(), (), {**given, "image_grid_thw": torch.tensor([[1, 2, 2]] * 3)}), 1)
    assert seen is not None and seen.changed
    unlike = torch.tensor([[1, 2, 2], [1, 2, 1], [1, 2, 3]])
    assert image_pairs(Call(Patches(), (), {**given, "image_grid_thw": unlike}), 1) is None


def test_placeholders_outside_the_vocabulary_are_not_asked_for() -> None:
    class Skips(Looker):
        def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
            return super().forward(tokens.clamp(min=0), pictures)

    ids = IDS.masked_fill(IDS == 5, -200)
    seen = image_pairs(Call(Skips(), (ids, pictures())), 1)
    assert seen is not None and bool(seen.own.isfinite().all())


class Prefix(nn.Module):
    """Two outputs of the image stand before those of the text, which sees them unless they are masked out."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masked = masked
        self.eye, self.words, self.head = nn.Linear(48, 16), nn.Embedding(6, 8), nn.Linear(8, 6)

    def forward(self, pictures: Tensor, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        seen = self.eye(pictures.flatten(1)).view(len(tokens), 2, 8)
        x = torch.cat([seen, self.words(tokens)], dim=1)
        attended = nn.functional.pad(mask, (2, 0), value=int(not self.masked)).bool()
        allowed = attended[:, None] & torch.ones(x.shape[1], x.shape[1]).tril().bool() | torch.eye(x.shape[1]).bool()
        return self.head(x + nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=allowed))


def test_outputs_of_images_before_those_of_the_text() -> None:
    ids = torch.tensor([[1, 3, 2, 4], [1, 4, 5, 0], [1, 5, 3, 3]])
    given = (pictures(), ids, (ids != 0).long(), ids.masked_fill(ids == 0, -100))
    for masked in (True, False):
        seen = image_pairs(Call(Prefix(masked=masked), given), 64)
        assert seen is not None and seen.changed is not masked and len(seen.own) == 3


class Answers(nn.Module):
    """A class for each row, from picture and question; `crossed` looks at the question in place of the picture."""

    def __init__(self, *, crossed: bool = False, gives_loss: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.crossed, self.gives_loss = crossed, gives_loss
        self.eye, self.words, self.head = nn.Linear(48, 8), nn.Embedding(6, 8), nn.Linear(16, 3)

    def forward(self, tokens: Tensor, pictures: Tensor) -> tuple[Tensor, ...]:
        seen, text = self.eye(pictures.flatten(1)), self.words(tokens).mean(dim=1)
        logits = self.head(torch.cat([text if self.crossed else seen, text], dim=1))
        return (logits, seen.square().mean()) if self.gives_loss else (logits,)


def moved(call: Call) -> bool:
    seen = image_pairs(call, 64)
    return seen is not None and seen.changed and not len(seen.own)


def test_outputs_that_stand_for_no_token() -> None:
    """No labels are needed to see that images move nothing."""
    seen = image_pairs(Call(Answers(crossed=True), (IDS, pictures())), 64)
    assert seen is not None and not seen.changed and not len(seen.own)
    assert moved(Call(Answers(), (IDS, pictures())))


def test_another_output_of_the_image_is_an_output() -> None:
    varied = pictures() * torch.linspace(0, 1, 48).view(3, 4, 4)
    assert moved(Call(Answers(gives_loss=True), (IDS, varied)))


def test_images_that_no_parameter_takes_are_targets() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.paint = nn.Embedding(6, 8), nn.Linear(8, 48)

        def forward(self, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
            drawn = self.paint(self.words(tokens).mean(dim=1))
            return drawn, (drawn - wanted.flatten(1)).square().mean(dim=1).median()

    assert moved(Call(Draws(), (IDS, pictures())))


def test_a_mean_over_rows_does_not_tell_whose_image_it_was() -> None:
    class Rebuilds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Linear(48, 48, bias=False)

        def forward(self, pictures: Tensor) -> Tensor:
            return self.both(pictures.flatten(1)).sum(dim=0).sum()

    assert image_pairs(Call(Rebuilds(), (pictures(),)), 64) is None


@dataclass
class Sample:
    picture: Tensor
    tokens: Tensor

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]


def test_images_in_a_batch_of_ones_own() -> None:
    class Whole(nn.Module):
        def __init__(self, *, crossed: bool) -> None:
            super().__init__()
            self.inner = Answers(crossed=crossed)

        def forward(self, batch: Sample) -> Tensor:
            return self.inner(batch.inputs, batch.picture)[0]

    batch = Sample(pictures(), IDS)
    seen = image_pairs(Call(Whole(crossed=True), (batch,)), 64)
    assert seen is not None and not seen.changed
    assert moved(Call(Whole(crossed=False), (batch,)))
    assert torch.equal(batch.picture, pictures())


class Album(nn.Module):
    """Looks at the pictures of a row that a mask allows: those that are there, or the empty places of others."""

    def __init__(self, *, reversed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reversed, self.words, self.eye = reversed, nn.Embedding(6, 6), nn.Linear(48, 6)

    def forward(self, tokens: Tensor, pictures: Tensor, empty: Tensor) -> Tensor:
        allowed = (empty if self.reversed else ~empty)[:, :, None]
        return self.words(tokens) + (self.eye(pictures.flatten(2)) * allowed).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("fill", [0.0, -1.5])
def test_empty_places_stay_empty(fill: float) -> None:
    empty = torch.tensor([[False, True, True], [False, False, True], [False, True, True]])
    album = torch.randn(3, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    album[empty] = fill
    for reversed in (True, False):
        seen = image_pairs(Call(Album(reversed=reversed), (IDS, album, empty)), 64)
        assert seen is not None and seen.changed is not reversed and len(seen.own) == 3


def test_rows_without_a_picture_keep_none() -> None:
    """A model that looks at the dummy of rows without a picture alone never sees one."""

    class Dummies(Looker):
        def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
            none = (pictures.flatten(1) == 0).all(dim=1)
            return super().forward(tokens, pictures * none[:, None, None, None])

    given = pictures() + torch.linspace(0, 1, 16).view(4, 4)
    given[1] = 0
    seen = image_pairs(Call(Dummies(), (IDS, given)), 64)
    assert seen is not None and not seen.changed
    seen = image_pairs(Call(Looker(), (IDS, given)), 64)
    assert seen is not None and seen.changed and seen.own[1] == seen.other[1]


class Captioner(nn.Module):
    """Reads features that were made beforehand, or only projects them."""

    def __init__(self, *, deaf: bool) -> None:
        super().__init__()
        self.words, self.projector, self.deaf = nn.Embedding(6, 6), nn.Linear(8, 6), deaf

    def forward(self, regions: Tensor, caption: Tensor, others: Tensor | None = None) -> Tensor:
        seen, text = self.projector(regions), self.words(caption)
        return text if self.deaf else text + seen.mean(dim=1, keepdim=True)


def test_features_made_beforehand() -> None:
    features = torch.arange(3 * 2 * 8.0).view(3, 2, 8)
    for deaf in (True, False):
        seen = image_pairs(Call(Captioner(deaf=deaf), (features, IDS)), 1)
        assert seen is not None and seen.changed != deaf and not len(seen.own)
    model = Captioner(deaf=True)
    assert image_pairs(Call(model, (features[:1].expand(3, 2, 8), IDS)), 1) is None  # all the same
    assert image_pairs(Call(model, (features, IDS, features.clone())), 1) is None  # which of the two?
    assert image_pairs(Call(model, (features.requires_grad_(), IDS)), 1) is None  # something outside learns from them


class Offer(nn.Module):
    """One number a row, from a query and the photos that a mask allows."""

    def __init__(self, *, reversed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reversed, self.words = reversed, nn.Embedding(6, 8)
        self.photo, self.score = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, photos: Tensor, valid: Tensor, query: Tensor) -> Tensor:
        allowed = (~valid if self.reversed else valid)[:, :, None]
        return self.score(self.words(query).sum(dim=1) + (self.photo(photos) * allowed).sum(dim=1)).squeeze(-1)


def test_empty_places_among_features() -> None:
    valid = torch.tensor([[True, False, False], [True, True, False], [True, False, False]])
    photos = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(0)) * valid[:, :, None]
    for reversed in (True, False):
        seen = image_pairs(Call(Offer(reversed=reversed), (photos, valid, IDS)), 64)
        assert seen is not None and seen.changed is not reversed


def test_a_number_a_row() -> None:
    """No mean over rows: it is another one where a picture is there twice."""

    class Mean(Answers):
        def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
            return super().forward(tokens, pictures)[0].mean(dim=0)

    class Number(Answers):
        def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
            return super().forward(tokens, pictures)[0][:, 0]

    varied = pictures() * torch.linspace(0, 1, 48).view(3, 4, 4)
    assert moved(Call(Mean(), (IDS, varied)))
    assert moved(Call(Number(), (IDS, varied)))
    seen = image_pairs(Call(Number(crossed=True), (IDS, varied)), 64)
    assert seen is not None and not seen.changed


class Wrapper(nn.Module):
    """Gives a loss alone. What is inside may be called with labels, as models of transformers are."""

    def __init__(self, *, blind: bool, labels: bool) -> None:
        super().__init__()
        self.inner, self.sight, self.blind, self.labels = Inner(), nn.Conv2d(3, 6, 4), blind, labels

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        seen = self.sight(pictures).flatten(1)[:, None] * (0.0 if self.blind else 1.0)
        targets = torch.cat([torch.full_like(tokens[:, :1], -100), tokens], dim=1)
        if self.labels:
            return self.inner(seen, tokens, labels=targets)[0]
        logits = self.inner(seen, tokens)[1][:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


class Inner(nn.Module):
    """Adds what it is shown to every word."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(6, 6), nn.Linear(6, 6)

    def forward(self, seen: Tensor, tokens: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.cat([seen, self.words(tokens) + seen], dim=1))
        if labels is None:
            return logits.sum(), logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("blind", [True, False])
def test_a_model_that_gives_its_loss_alone(blind: bool, labels: bool) -> None:
    torch.manual_seed(0)
    seen = image_pairs(Call(Wrapper(blind=blind, labels=labels), (IDS, pictures())), 1)
    assert seen is not None and seen.changed is not blind
    assert len(seen.own) == (3 if labels else 0)
    if labels and not blind:
        assert not torch.equal(seen.own, seen.other)
