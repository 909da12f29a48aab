"""A step over pairs in one piece and with cached gradients, on made-up images and texts. See `contrastive.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MICRO = 64  # pairs in memory at once where gradients are cached
TOKENS, WORDS, SIDE = 16, 200, 64

RECIPE: dict[str, Any] = {
    "name": "cached-batch",
    "summary": "a small CLIP whose images are noise",
    "model": {
        "pair": {
            "vision": {
                "config": {
                    "model_type": "siglip_vision_model",
                    "hidden_size": 128,
                    "intermediate_size": 256,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "image_size": SIDE,
                    "patch_size": 8,
                },
                "layer": -1,
            },
            "language": {
                "config": {
                    "model_type": "clip_text_model",
                    "hidden_size": 128,
                    "intermediate_size": 256,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "max_position_embeddings": TOKENS,
                }
            },
            "tokenizer": {"build": "words"},
            "embed": 128,
            "pool": "mean",
        }
    },
    "data": {"train": {"reader": "table", "path": "none.jsonl"}},
    "stages": [
        {
            "name": "compare",
            "data": {"train": 1},
            "learn": {"vision": "all", "connector": "all", "language": "all"},
            "objective": {"itc": 1},
            "lr": 1e-3,
            "steps": 1,
            "batch": 64,
        }
    ],
}


def cached_steps(ways: list[str], pairs: int) -> dict[str, Callable[[], float]]:
    """A forward and backward pass of a whole step for each way, which gives the mean loss."""
    import torch

    from sightline.data.batch import Batch
    from sightline.models.build import build
    from sightline.recipe.read import validate
    from sightline.train.objectives import PairLosses
    from sightline.train.parallel.ranks import Ranks
    from sightline.train.precision import pick_precision

    recipe = validate(RECIPE, where="cached-batch")
    built = build(recipe.model, seed=0, texts=[" ".join(f"word{i}" for i in range(WORDS))])
    model, device = built.model.train(), torch.device("cpu")
    torch.manual_seed(0)
    ids = torch.randint(4, WORDS, (pairs, TOKENS))
    images = torch.randn(pairs, 3, SIDE, SIDE)

    def batches(size: int) -> list[Any]:
        made = []
        for start in range(0, pairs, size):
            part = slice(start, min(start + size, pairs))
            rows = ids[part]
            keys = tuple(str(number) for number in range(part.start, part.stop))
            real, index = torch.ones_like(rows, dtype=torch.bool), torch.arange(len(rows))
            made.append(Batch(rows, rows, rows, rows, rows, real, index, images[part], image_keys=keys))
        return made

    def step(size: int) -> float:
        model.zero_grad(set_to_none=True)
        objective = PairLosses(recipe.stages[0])
        ranks, precision = Ranks(0, 1, device), pick_precision("fp32", device)
        sums = objective.backward(model, batches(size), {"itc": 1 / pairs}, precision, ranks)
        return float(sums["itc"]) / pairs

    sizes = {"one piece": pairs, "cached": MICRO}
    step(MICRO) if pairs == MICRO else _warm(batches(MICRO)[:1], model)
    return {way: lambda size=sizes[way]: step(size) for way in ways}  # type: ignore[misc]


def _warm(batches: list[Any], model: Any) -> None:
    """Libraries are loaded, and a micro-batch's memory is taken, before anything is measured."""
    pairs = model(batches[0], "pairs")
    (pairs.image @ pairs.text.T).sum().backward()
    model.zero_grad(set_to_none=True)
