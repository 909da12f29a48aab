"""The queue holds the last pairs in any rhythm of pushes, and resumes exactly."""

from __future__ import annotations

import io

import pytest
import torch

from sightline.errors import UserError
from sightline.losses.contrastive import info_nce
from sightline.models.queue import Queue
from tests.losses import brute


def pairs(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.arange(first, first + count)
    return ids[:, None] + torch.zeros(3), -ids[:, None] + torch.zeros(3), ids


def held(queue: Queue) -> list[int]:
    """Ids in the queue, each with its own embeddings."""
    image, text, ids = queue.behind(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert torch.equal(image[:, 0], ids.float()) and torch.equal(text[:, 0], -ids.float())
    return sorted(ids.tolist())


@pytest.mark.parametrize("sizes", [[3, 3, 3], [5], [7, 1], [12, 2], [1] * 9, [0, 2, 0], [4, 4, 11, 1, 3]])
def test_holds_the_last_pairs(sizes: list[int]) -> None:
    queue, seen = Queue(5, 3), 0
    for size in sizes:
        queue.push(*pairs(seen, size))
        seen += size
        assert held(queue) == list(range(max(0, seen - 5), seen))
        assert len(queue) == min(5, seen)


def test_a_loaded_queue_goes_on_exactly() -> None:
    queue, file = Queue(5, 3), io.BytesIO()
    queue.push(*pairs(0, 7))
    torch.save(queue.state_dict(), file)
    file.seek(0)
    other = Queue(5, 3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (queue, other):
        one.push(*pairs(7, 2))
    for name, buffer in queue.named_buffers():
        assert torch.equal(buffer, dict(other.named_buffers())[name])
    assert held(other) == [4, 5, 6, 7, 8]


def test_stands_behind_the_batch_in_the_loss() -> None:
    """A pair in the queue that shows a row's image is its positive; gradients reach the batch alone."""
    image, text = (x.float().requires_grad_() for x in brute.embeddings(3))
    old_image, old_text = (x.float() for x in brute.embeddings(4, seed=1))
    ids, old_ids = torch.tensor([1, 2, 3]), torch.tensor([9, 2, 8, 7])
    queue = Queue(6, 16)
    queue.push(old_image, old_text, old_ids)
    all_image, all_text, all_ids = queue.behind(image, text, ids)
    total, _ = info_nce(image, text, all_image, all_text, torch.tensor(5.0), image_ids=all_ids)
    joined = [torch.cat(x).double() for x in ((image, old_image), (text, old_text))]
    exact = brute.info_nce(
        image.double(), text.double(), *joined, torch.tensor(5.0), image_ids=torch.cat([ids, old_ids])
    )
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=1e-6)
    total.backward()
    assert image.grad is not None and not any(buffer.requires_grad for buffer in queue.buffers())


def test_many_embeddings_of_one_image() -> None:
    queue = Queue(4, 16, queries=2)
    image, text = (x.float() for x in brute.embeddings(3, queries=2))
    queue.push(image, text, torch.arange(3))
    assert queue.behind(image, text, torch.arange(3))[0].shape == (6, 2, 16)


def test_bad_pushes() -> None:
    with pytest.raises(UserError, match="cannot hold 0"):
        Queue(0, 3)
    queue = Queue(5, 3)
    for image, text, ids in ((torch.ones(2, 4), torch.ones(2, 3), 2), (torch.ones(2, 3), torch.ones(2, 3), 3)):
        with pytest.raises(UserError, match="cannot push"):
            queue.push(image, text, torch.zeros(ids, dtype=torch.long))
