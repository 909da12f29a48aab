"""InfoNCE against brute force in fp64, torchmultimodal and open_clip, forward and backward; chunked as whole."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.errors import UserError
from sightline.losses import contrastive as module
from sightline.losses import similarity as chunking
from sightline.losses.contrastive import info_nce, info_nce_apart
from sightline.losses.distil import soft_targets
from tests.losses import brute
from tests.losses.references import open_clip_losses, torchmultimodal

SCALE = 1 / 0.07


@pytest.fixture(autouse=True, params=["plain", "chunked"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing: small batches take the plain one by themselves."""
    if request.param == "chunked":
        monkeypatch.setattr(module, "SMALL", -1)


def with_gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value and its gradient for each input, fp64."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    value.backward()
    return [value.detach().double(), *(torch.zeros_like(x) if x.grad is None else x.grad.double() for x in leaves)]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    """Largest difference of each tensor, relative to its largest entry (at least 1: errors are absolute below)."""
    for got, want in zip(found, expected, strict=True):
        assert got.isfinite().all()
        want = want.double()
        assert float((got.double() - want).abs().max()) <= tolerance * max(1.0, float(want.abs().max()))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"smoothing": 0.1},
    "captions of one image": {"image_ids": torch.tensor([4, 4, 7, 1, 7, 7, 0, 2, 3])},
    "all at once": {"image_ids": torch.tensor([4, 4, 7, 1, 7, 7, 0, 2, 3]), "smoothing": 0.1, "alpha": 0.4},
    "all ids differ": {"image_ids": torch.arange(9) * 3},
}


def teacher(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    first, second = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64).mul(3).softmax(-1)
    return first, second


@pytest.mark.parametrize("chunk", [1 << 22, 20, 1], ids=["one chunk", "two rows", "row by row"])
@pytest.mark.parametrize("queries", [None, 3])
@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case: str, queries: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "CHUNK", chunk)
    image, text = brute.embeddings(9, queries=queries)
    scale = torch.tensor(SCALE, dtype=torch.float64)
    options = dict(CASES[case])
    if "alpha" in options:
        options["targets"] = teacher(9, 9)
    expected = with_gradients(lambda i, t, s: brute.info_nce(i, t, i, t, s, **options), image, text, scale)
    # one matrix for both directions, and one each
    for again in (lambda x: x, lambda x: x.view_as(x)):
        loss = lambda i, t, s: info_nce(i, t, again(i), again(t), s, **options)[0]  # noqa: E731, B023
        assert_near(with_gradients(loss, image.float(), text.float(), scale.float()), expected)
        assert_near(with_gradients(loss, image, text, scale), expected, 1e-12)


@pytest.mark.parametrize("case", ["plain", "all at once"])
def test_own_pairs_among_others(case: str) -> None:
    """As on rank 1 of 3, or before a queue."""
    image, text = brute.embeddings(9)
    options = dict(CASES[case])
    if "alpha" in options:
        options["targets"] = teacher(3, 9)
    own = slice(4, 7)

    def of(loss: Callable[..., Any]) -> Callable[..., Tensor]:
        def value(i: Tensor, t: Tensor, s: Tensor) -> Tensor:
            out = loss(i[own], t[own], i, t, s, own=4, **options)
            return out if isinstance(out, Tensor) else out[0]

        return value

    inputs = image, text, torch.tensor(SCALE, dtype=torch.float64)
    expected = with_gradients(of(brute.info_nce), *inputs)
    assert_near(with_gradients(of(info_nce), *(x.float() for x in inputs)), expected)


def test_gradients_are_those_of_finite_differences() -> None:
    image, text = (x.requires_grad_() for x in brute.embeddings(4, 3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([1, 1, 2, 3])
    for again in (lambda x: x, lambda x: x.view_as(x)):
        assert torch.autograd.gradcheck(
            lambda i, t, s: info_nce(i, t, again(i), again(t), s, image_ids=ids, smoothing=0.1)[0],  # noqa: B023
            (image, text, scale),
        )


def test_sums_over_any_split_are_the_whole() -> None:
    image, text = brute.embeddings(9)
    scale = torch.tensor(SCALE, dtype=torch.float64)
    whole, count = info_nce(image, text, image, text, scale, smoothing=0.1)
    parts = [
        info_nce(image[a:b], text[a:b], image, text, scale, own=a, smoothing=0.1) for a, b in ((0, 4), (4, 4), (4, 9))
    ]
    assert count == sum(n for _, n in parts) == 9
    torch.testing.assert_close(sum(part for part, _ in parts), whole)


def test_equals_open_clip() -> None:
    reference = open_clip_losses().ClipLoss()
    image, text = (x.float() for x in brute.embeddings(33))
    scale = torch.tensor(SCALE)
    found = with_gradients(lambda i, t, s: info_nce(i, t, i, t, s)[0] / 33, image, text, scale)
    assert_near(found, with_gradients(reference, image, text, scale))


def test_equals_transformers_clip() -> None:
    clip_loss = getattr(
        importlib.import_module("transformers.models.clip.modeling_clip"), "image_text_contrastive_loss", None
    )
    if clip_loss is None:
        pytest.skip("this transformers keeps CLIP's loss elsewhere")
    image, text = (x.float() for x in brute.embeddings(12))
    found = with_gradients(lambda i, t: info_nce(i, t, i, t, torch.tensor(SCALE))[0] / 12, image, text)
    assert_near(found, with_gradients(lambda i, t: clip_loss(SCALE * t @ i.T), image, text))


def test_equals_torchmultimodal_blip2(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = torchmultimodal("modules.losses.blip2_losses", monkeypatch, Blip2Output="models.blip2.blip2")
    image, text = (x.float() for x in brute.embeddings(7, queries=4))
    temperature = torch.tensor(0.07)

    def theirs(i: Tensor, t: Tensor, temp: Tensor) -> Tensor:
        return reference.itc_loss(*reference.compute_image_text_similarity(i, t, temp), label_smoothing=0.1)

    # The reference gathers the other side without gradients even on one rank; ours has the gradient of the loss.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "concat_gather_all_gpu", lambda x, backprop_type: x)
        expected = with_gradients(theirs, image, text, temperature)
    found = with_gradients(lambda i, t, p: info_nce(i, t, i, t, 1 / p, smoothing=0.1)[0] / 7, image, text, temperature)
    assert_near(found, expected)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_equals_torchmultimodal_albef(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of batch and queue, targets by image id mixed with the momentum model's."""
    reference = torchmultimodal("modules.losses.albef", monkeypatch).ImageTextContrastiveLoss()
    image, text = (x.float() for x in brute.embeddings(4))
    all_image, all_text = (x.float() for x in brute.embeddings(11, seed=1))  # the momentum model's, the batch's first
    ids = torch.tensor([3, 3, 5, 6, 5, 1, 2, 3, 9, 8, 7])
    scale = torch.tensor(SCALE)
    hard = (ids[:4, None] == ids).float()
    hard /= hard.sum(1, keepdim=True)
    soft = soft_targets(all_image[:4], all_text[:4], all_image, all_text, scale)
    expected = with_gradients(
        lambda i, t, s: reference(
            s * i @ all_text.T,
            s * t @ all_image.T,
            scale * all_image[:4] @ all_text.T,
            scale * all_text[:4] @ all_image.T,
            hard,
            alpha,
        ),
        image, text, scale,
    )  # fmt: skip
    found = with_gradients(
        lambda i, t, s: info_nce(i, t, all_image, all_text, s, image_ids=ids, targets=soft, alpha=alpha)[0] / 4,
        image, text, scale,
    )  # fmt: skip
    assert_near(found, expected)


def test_a_batch_of_one_costs_nothing() -> None:
    image, text = brute.embeddings(1, queries=2)
    for found in with_gradients(lambda i, t: info_nce(i, t, i, t, torch.tensor(SCALE))[0], image, text):
        assert float(found.abs().max()) == 0


def test_a_rank_without_rows_has_zero_gradients() -> None:
    image, text = brute.embeddings(3)
    image.requires_grad_()
    total, count = info_nce(image[:0], text[:0], image, text, torch.tensor(SCALE), own=3)
    total.backward()
    assert (total.item(), count) == (0, 0) and float(image.grad.abs().max()) == 0


@pytest.mark.parametrize(
    ("rows", "texts"), [("same", "differ"), ("differ", "same"), ("zero", "zero"), ("same", "same")]
)
@pytest.mark.parametrize("ids", [None, torch.zeros(6, dtype=torch.long)])
def test_degenerate_batches_have_their_value(rows: str, texts: str, ids: Tensor | None) -> None:
    def of(kind: str, given: Tensor) -> Tensor:
        return {"same": given[:1].repeat(6, 1), "differ": given, "zero": given * 0}[kind]

    image, text = brute.embeddings(6)
    image, text, scale = of(rows, image), of(texts, text), torch.tensor(100.0, dtype=torch.float64)
    expected = with_gradients(lambda i, t, s: brute.info_nce(i, t, i, t, s, image_ids=ids), image, text, scale)
    found = with_gradients(
        lambda i, t, s: info_nce(i, t, i, t, s, image_ids=ids)[0], image.float(), text.float(), scale.float()
    )
    assert_near(found, expected, 1e-5)  # gradients are the scale, 100, times rounded probabilities
    if texts == rows:  # nothing to tell pairs apart by
        assert float(found[0]) == pytest.approx(6 * math.log(6), rel=1e-6)


@pytest.mark.parametrize("scale", [100.0, 1e4, 1e30])
def test_a_huge_scale_is_exact_and_never_negative(scale: float) -> None:
    image = torch.eye(5)
    for found in with_gradients(lambda i, t: info_nce(i, t, i, t, torch.tensor(scale))[0], image, image):
        assert found.isfinite().all()
        assert float(found.abs().max()) == 0 or scale == 100


def test_bf16_under_autocast_is_computed_in_fp32() -> None:
    image, text = (x.bfloat16() for x in brute.embeddings(8))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = info_nce(image, text, image, text, torch.tensor(SCALE))
    assert total.dtype == torch.float32
    exact = brute.info_nce(*(x.double() for x in (image, text, image, text)), torch.tensor(SCALE))
    assert float(total) == pytest.approx(float(exact), rel=1e-6)


def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    image, text = brute.embeddings(6)
    with torch.no_grad():
        assert not info_nce(image.requires_grad_(), text, image, text, torch.tensor(SCALE))[0].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.randn(4, 5), "all_text": torch.randn(4, 5)}, "8 wide .* 5"),
        ({"text": torch.randn(3, 8)}, "4 images for 3 texts"),
        ({"own": 1}, "own pairs 1 to 5"),
        ({"scale": torch.tensor(math.inf)}, "scale is inf"),
        ({"scale": torch.tensor(math.nan)}, "scale is nan"),
        ({"smoothing": 1.5}, "smoothing is 1.5"),
        ({"alpha": 0.5}, "no targets"),
        ({"image_ids": torch.arange(3)}, r"shape \(3,\) for 4"),
        ({"targets": (torch.ones(4, 3), torch.ones(4, 4))}, r"not \(4, 4\)"),
    ],
)
def test_bad_input_is_told(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "image": torch.randn(4, 8), "text": torch.randn(4, 8), "all_image": torch.randn(4, 8),
        "all_text": torch.randn(4, 8), "scale": torch.tensor(1.0),
    }  # fmt: skip
    info_nce(**good)
    with pytest.raises(UserError, match=message):
        info_nce(**(good | change))


@pytest.mark.parametrize("chunk", [1 << 22, 20], ids=["one chunk", "two rows"])
@pytest.mark.parametrize("queries", [None, 3])
@pytest.mark.parametrize(("ids", "smoothing"), [(None, 0.0), (torch.tensor([0, 1, 1, 2, 0, 3, 4, 4]), 0.1)])
@pytest.mark.parametrize("split", [(8,), (3, 5), (3, 0, 4, 1)])
def test_shares_of_processes_add_up_to_the_whole(
    split: tuple[int, ...],
    ids: Tensor | None,
    smoothing: float,
    queries: int | None,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its own images and all texts, and is told the others' sums: value and gradients are brute force's."""
    monkeypatch.setattr(chunking, "CHUNK", chunk)
    image, text = brute.embeddings(8, queries=queries)
    scale = torch.tensor(9.0, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (image, text, scale)]
    expected = brute.info_nce(image, text, image, text, scale, image_ids=ids, smoothing=smoothing)
    wanted = torch.autograd.grad(expected, leaves)
    starts = [sum(split[:rank]) for rank in range(len(split))]
    sums: list[Tensor] = []

    def listen(own: Tensor) -> Tensor:
        sums.append(own)
        return own

    def tell(own: Tensor) -> Tensor:
        return torch.stack(sums).logsumexp(0)

    for join in (listen, tell):
        shares = [
            info_nce_apart(image[s : s + b], text, scale, join, own=s, image_ids=ids, smoothing=smoothing)
            for s, b in zip(starts, split, strict=True)
        ]
    total = torch.stack([share for share, _ in shares]).sum()
    assert sum(count for _, count in shares) == 8
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-10)
    for found, gradient in zip(torch.autograd.grad(total, leaves), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-10)


def test_shares_are_refused_as_the_whole_is() -> None:
    image, text = brute.embeddings(4)
    with pytest.raises(UserError, match="are not among the 4"):
        info_nce_apart(image[:3], text, torch.tensor(9.0), lambda own: own, own=2)
    with pytest.raises(UserError, match="scale is inf"):
        info_nce_apart(image, text, torch.tensor(math.inf), lambda own: own)
