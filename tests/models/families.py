"""Tiny configurations of every model type that Sightline adopts, small enough to be built in a moment."""

from __future__ import annotations

from typing import Any

import torch

from sightline.data.batch import IGNORE, Batch

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 16,
}
SIGLIP = {k: v for k, v in CLIP.items() if k != "projection_dim"} | {"model_type": "siglip_vision_model"}
IMAGE = 60  # the image token's id
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": 61, "vision_start_token_id": 58, "vision_end_token_id": 59}

CONFIGS: dict[str, dict[str, Any]] = {
    "llava": {"vision_config": CLIP, "text_config": {"model_type": "llama", **TEXT}, "image_token_index": IMAGE},
    "llava_next": {
        "vision_config": CLIP,
        "text_config": {"model_type": "llama", **TEXT},
        "image_token_index": IMAGE,
        "image_grid_pinpoints": [[16, 32], [32, 16]],
    },
    "llava_onevision": {
        "vision_config": SIGLIP,
        "text_config": {"model_type": "qwen2", **TEXT},
        "image_token_index": IMAGE,
        "video_token_index": 61,
        "image_grid_pinpoints": [[16, 32], [32, 16]],
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "hidden_size": 32,
            "patch_size": 4,
            "mlp_ratio": 2,
        },
        **QWEN_TOKENS,
    },
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        **QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **QWEN_TOKENS,
    },
    "idefics3": {
        "vision_config": {k: v for k, v in SIGLIP.items() if k != "model_type"},
        "text_config": {"model_type": "llama", **TEXT},
        "scale_factor": 2,
        "image_token_id": IMAGE,
    },
    "smolvlm": {
        "vision_config": {k: v for k, v in SIGLIP.items() if k != "model_type"},
        "text_config": {"model_type": "llama", **TEXT},
        "scale_factor": 2,
        "image_token_id": IMAGE,
    },
    "internvl": {
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [16, 16],
            "patch_size": [4, 4],
        },
        "text_config": {"model_type": "qwen2", **TEXT},
        "image_token_id": IMAGE,
    },
    "paligemma": {
        "vision_config": SIGLIP | {"vision_use_head": False},
        "text_config": {"model_type": "gemma", **TEXT},
        "image_token_index": IMAGE,
        "projection_dim": 32,
    },
    "gemma3": {
        "vision_config": SIGLIP | {"vision_use_head": False, "image_size": 32},
        "text_config": {**TEXT, "num_hidden_layers": 2, "sliding_window": 16},
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE,
        "boi_token_index": 58,
        "eoi_token_index": 59,
    },
    "blip-2": {
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        "qformer_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 24,
            "vocab_size": 32,
        },
        "text_config": {
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "num_query_tokens": 4,
        "image_token_index": IMAGE,
    },
}

# Image inputs of one image of each type, and the language tokens it becomes.
IMAGES: dict[str, tuple[dict[str, list[int]], int]] = {
    "llava": ({"pixel_values": [1, 3, 16, 16]}, 4),
    "llava_next": ({"pixel_values": [1, 3, 3, 16, 16]}, 4 + 8 + 2),
    "llava_onevision": ({"pixel_values": [1, 3, 3, 16, 16]}, 4 + 8 + 2),
    "qwen2_vl": ({"pixel_values": [16, 96]}, 4),
    "qwen2_5_vl": ({"pixel_values": [16, 96]}, 4),
    "qwen3_vl": ({"pixel_values": [16, 96]}, 4),
    "idefics3": ({"pixel_values": [1, 1, 3, 16, 16]}, 1),
    "smolvlm": ({"pixel_values": [1, 1, 3, 16, 16]}, 1),
    "internvl": ({"pixel_values": [1, 3, 16, 16]}, 4),
    "paligemma": ({"pixel_values": [1, 3, 16, 16]}, 4),
    "gemma3": ({"pixel_values": [1, 3, 32, 32]}, 4),
    "blip-2": ({"pixel_values": [1, 3, 16, 16]}, 4),
}


def image_inputs(kind: str, images: int) -> dict[str, torch.Tensor]:
    """Random image inputs of `images` images, by the names of the model's own processor."""
    shape = list(IMAGES[kind][0]["pixel_values"])
    shape[0] *= images
    made = {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    if kind.startswith("qwen"):
        made["image_grid_thw"] = torch.tensor([[1, 4, 4]] * images)
    if kind in ("llava_next", "llava_onevision"):
        made["image_sizes"] = torch.tensor([[16, 32]] * images)
    return made


def batch(kind: str, *, prompt: bool = False, images: bool = True) -> Batch:
    """Two rows of different lengths, each with one image: padded right with answers, or left as prompts."""
    tokens = IMAGES[kind][1] if images else 0
    start = [58] if kind.startswith("qwen") else []  # the mark before an image
    rows, labels = [], []
    for question, answer in (([5, 6, 7], [8, 9, 2]), ([5, 7], [10, 2])):
        asked = [1, *start, *[IMAGE] * tokens, *question]
        rows.append(asked if prompt else asked + answer)
        labels.append([IGNORE] * len(rows[-1]) if prompt else [IGNORE] * len(asked) + answer)
    longest = max(map(len, rows))

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        fills = [[fill] * (longest - len(value)) for value in values]
        return torch.tensor([f + v if prompt else v + f for f, v in zip(fills, values, strict=True)])

    mask = padded([[1] * len(row) for row in rows], 0)
    return Batch(
        input_ids=padded(rows, 0),
        labels=padded(labels, IGNORE),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        group_ids=mask - 1,
        segment_ids=mask,
        attention_mask=mask.bool(),
        image_index=torch.arange(2 if images else 0),
        extra=image_inputs(kind, 2) if images else {},
    )


def typed(kind: str, made: Batch) -> dict[str, torch.Tensor]:
    """The per-token types that the model's own processor would give, written out by hand."""
    image = (made.input_ids == IMAGE).long()
    if kind == "gemma3":
        return {"token_type_ids": image}
    if kind.startswith("qwen"):
        return {"mm_token_type_ids": image}
    if kind == "paligemma":
        types = torch.zeros_like(made.input_ids)
        for row, labels in enumerate(made.labels.tolist()):
            first = next((i for i, label in enumerate(labels) if label != IGNORE), len(labels))
            types[row, first:] = 1
        return {"token_type_ids": types}
    return {}
