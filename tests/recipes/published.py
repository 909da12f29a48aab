"""Configurations of published models, as their authors' config.json gives them, and what their parts must count.

Only fields that shape parameters are kept. A count is derived by hand from the architecture, not from the code under
test; where the authors publish a total it stands beside it.
"""

from __future__ import annotations

# https://huggingface.co/openai/clip-vit-large-patch14-336 (vision_config)
CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}

# https://huggingface.co/lmsys/vicuna-7b-v1.5
VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

# https://huggingface.co/llava-hf/llava-1.5-7b-hf: Vicuna with an image and a pad token, filled up to a multiple of 64
LLAVA_7B = {
    "model_type": "llava",
    "image_token_index": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": False,
    "vision_config": CLIP_L_336,
    "text_config": VICUNA_7B | {"vocab_size": 32064},
}

# https://huggingface.co/google/siglip2-base-patch16-512 (vision_config)
SIGLIP2_B_512 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}

# https://huggingface.co/HuggingFaceTB/SmolLM2-360M-Instruct
SMOLLM2_360M = {
    "model_type": "llama",
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct
QWEN3_VL_2B = {
    "model_type": "qwen3_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}
QWEN3_VL_2B_TOTAL = 2_127_532_032  # the hub's safetensors metadata

# https://huggingface.co/openai/clip-vit-large-patch14 (vision_config)
CLIP_L_224 = CLIP_L_336 | {"image_size": 224}

# https://huggingface.co/facebook/opt-125m and opt-2.7b
OPT_125M = {
    "model_type": "opt",
    "hidden_size": 768,
    "word_embed_proj_dim": 768,
    "ffn_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
    "vocab_size": 50272,
}
OPT_2_7B = OPT_125M | {
    "hidden_size": 2560,
    "word_embed_proj_dim": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}

# https://huggingface.co/google/flan-t5-xl
FLAN_T5_XL = {
    "model_type": "t5",
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}

CONFIGS = {
    "openai/clip-vit-large-patch14": CLIP_L_224,
    "facebook/opt-125m": OPT_125M,
    "facebook/opt-2.7b": OPT_2_7B,
    "google/flan-t5-xl": FLAN_T5_XL,
    "openai/clip-vit-large-patch14-336": CLIP_L_336,
    "lmsys/vicuna-7b-v1.5": VICUNA_7B,
    "google/siglip2-base-patch16-512": SIGLIP2_B_512,
    "HuggingFaceTB/SmolLM2-360M-Instruct": SMOLLM2_360M,
    "Qwen/Qwen3-VL-2B-Instruct": QWEN3_VL_2B,
    "llava-hf/llava-1.5-7b-hf": LLAVA_7B,
}


def linear(width_in: int, width_out: int, bias: bool = True) -> int:
    """Parameters of one linear map."""
    return width_in * width_out + bias * width_out


def vit_block(width: int, inner: int) -> int:
    """A pre-norm ViT block: four projections, two maps, two LayerNorms, all with biases."""
    return 4 * linear(width, width) + linear(width, inner) + linear(inner, width) + 2 * 2 * width


def llama(width: int, inner: int, layers: int, kv_width: int, vocabulary: int, tied: bool) -> int:
    """A Llama: no biases, RMSNorm before each half of a block and at the end."""
    attention = 2 * linear(width, width, bias=False) + 2 * linear(width, kv_width, bias=False)
    block = attention + 3 * linear(width, inner, bias=False) + 2 * width
    return layers * block + width + (1 if tied else 2) * vocabulary * width


def clip_l_336(blocks: int, post_norm: bool, positions: int = 577) -> int:
    """CLIP ViT-L/14 at 336 px, cut after `blocks`: class token, patches without bias, 577 positions, a norm before."""
    stem = 1024 + 3 * 14 * 14 * 1024 + positions * 1024 + 2 * 1024
    return stem + blocks * vit_block(1024, 4096) + post_norm * 2 * 1024


def opt(width: int, inner: int, layers: int) -> int:
    """An OPT: ViT-like blocks, 2,048 positions and 2 before them, a norm at the end, tied output embedding."""
    return layers * vit_block(width, inner) + (50272 + 2048 + 2) * width + 2 * width


def flan_t5(width: int, inner: int, layers: int, heads: int, size: int, vocabulary: int) -> int:
    """A T5 1.1: no biases, RMSNorms, gated maps, 32 relative positions a head in each half, untied output embedding."""
    attention, maps = 4 * width * heads * size, 3 * width * inner
    encoder = layers * (attention + maps + 2 * width)
    decoder = layers * (2 * attention + maps + 3 * width)
    return encoder + decoder + 2 * (32 * heads + width) + 2 * vocabulary * width


def q_former_queries(seen: int) -> int:
    """What of a Q-Former looks at an image of `seen` wide features: BERT-base's 12 blocks with 6 cross-attentions.

    The norm on the features, 32 queries, and the norm before the first block belong to it.
    """
    blocks = 12 * vit_block(768, 3072)
    cross = 6 * (2 * linear(768, 768) + 2 * linear(seen, 768) + 2 * 768)
    return 2 * seen + 32 * 768 + 2 * 768 + blocks + cross


def q_former_texts() -> int:
    """What of it reads, compares, judges and writes texts: words and [DEC], 512 positions, 12 pairs of maps, heads."""
    maps = 12 * (linear(768, 3072) + linear(3072, 768) + 2 * 768)
    words = (30522 + 1 + 512) * 768
    compared, judged, temperature = 2 * linear(768, 256), linear(768, 2), 1
    writer = linear(768, 768) + 2 * 768 + 30522 + 1
    return maps + words + compared + judged + temperature + writer


def clip_b_32() -> dict[str, int]:
    """CLIP ViT-B/32: 50 positions with the class token; a text tower of width 512; the norm of the class token, two
    projections and the temperature between them.
    """
    vision = 768 + 3 * 32 * 32 * 768 + 50 * 768 + 2 * 768 + 12 * vit_block(768, 3072)
    language = 49408 * 512 + 77 * 512 + 12 * vit_block(512, 2048) + 2 * 512
    connector = 2 * 768 + linear(768, 512, bias=False) + linear(512, 512, bias=False) + 1
    return {"vision": vision, "connector": connector, "language": language}


def siglip_b_16() -> dict[str, int]:
    """SigLIP B/16: the pooling head is a query, attention and an MLP behind a norm; scale and bias are numbers."""
    vision = linear(3 * 16 * 16, 768) + 196 * 768 + 12 * vit_block(768, 3072) + 2 * 768
    language = 32000 * 768 + 64 * 768 + 12 * vit_block(768, 3072) + 2 * 768
    pool = 768 + 4 * linear(768, 768) + 2 * 768 + linear(768, 3072) + linear(3072, 768)
    return {"vision": vision, "connector": pool + linear(768, 768) + 2, "language": language}


def siglip2_b_512() -> int:
    """SigLIP 2 B/16 at 512 px without its pooling head: patches with bias, 1,024 positions, a norm after."""
    return linear(3 * 16 * 16, 768) + 1024 * 768 + 12 * vit_block(768, 3072) + 2 * 768


def qwen3_vl_connector() -> int:
    """Qwen3-VL-2B's mergers, each four patches of 1,024 as one, a norm and two maps to 2,048.

    The last layer's norms before the four are joined, the three of the intermediate layers (DeepStack) after.
    """
    maps = linear(4096, 4096) + linear(4096, 2048)
    return (maps + 2 * 1024) + 3 * (maps + 2 * 4096)


def lora(rank: int, shapes: list[tuple[int, int]]) -> int:
    """Low-rank adapters on linear maps of these (in, out) widths: rank x in down, out x rank up."""
    return sum(rank * (width_in + width_out) for width_in, width_out in shapes)
