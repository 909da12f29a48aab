"""Configurations of the hub models that shipped recipes name, so that they can be counted without a network.

Facts from each model's config.json; only what differs from the defaults of `transformers`' configuration class.
"""

from __future__ import annotations

from typing import Any

from sightline.recipe.schema import ModelSpec

CLIP_L_336: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": CLIP_L_336,
    "openai/clip-vit-large-patch14": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "facebook/deit-base-patch16-224": {"model_type": "vit"},
    "google-bert/bert-base-uncased": {"model_type": "bert"},
    "facebook/opt-1.3b": {
        "model_type": "opt",
        "hidden_size": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 2048,
        "vocab_size": 50272,
    },
    "google/siglip2-base-patch16-512": {
        "model_type": "siglip_vision_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    "lmsys/vicuna-7b-v1.5": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32000,
    },
    "HuggingFaceTB/SmolLM2-360M-Instruct": {
        "model_type": "llama",
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    },
    "facebook/opt-125m": {
        "model_type": "opt",
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
        "word_embed_proj_dim": 768,
    },
    "facebook/opt-2.7b": {
        "model_type": "opt",
        "hidden_size": 2560,
        "ffn_dim": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
        "word_embed_proj_dim": 2560,
    },
    "google/flan-t5-xl": {
        "model_type": "t5",
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "vocab_size": 32128,
    },
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava",
        "tie_word_embeddings": False,
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vision_config": CLIP_L_336,
        "text_config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "vocab_size": 32064,
            "tie_word_embeddings": False,
        },
    },
    "Qwen/Qwen3-VL-2B-Instruct": {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
}


def offline(spec: ModelSpec) -> ModelSpec:
    """`spec` with the sources that are known here replaced by their configurations."""
    if spec.adopt is not None:
        return spec.model_copy(update={"adopt": _known(spec.adopt)})
    if spec.pair is not None:
        pair = {"vision": _known(spec.pair.vision), "language": _known(spec.pair.language)}
        return spec.model_copy(update={"pair": spec.pair.model_copy(update=pair)})
    assert spec.compose is not None
    towers = {"vision": _known(spec.compose.vision), "language": _known(spec.compose.language)}
    return spec.model_copy(update={"compose": spec.compose.model_copy(update=towers)})


def _known(part: Any) -> Any:
    if part.source in CONFIGS:
        return part.model_copy(update={"source": None, "config": CONFIGS[part.source]})
    return part
