"""Processors of real architectures, built offline: PIL image processors and a small byte-level tokenizer."""

from __future__ import annotations

from typing import Any

from transformers import (
    Blip2Processor,
    Gemma3Processor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sightline.data.processor import without_video
from tests.data.made import bpe_tokenizer

# The published chat templates in short: the same marks in the same places.
EACH_PART = (
    "{%- for part in m.content -%}{%- if part.type == 'image' -%}{{ IMAGE }}"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}"
)
CHATML = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}" + EACH_PART + "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
LLAVA = (
    "{%- for m in messages -%}{%- if m.role != 'system' -%}{{ m.role.upper() + ': ' }}{%- endif -%}"
    "{%- for part in m.content if part.type == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in m.content if part.type == 'text' -%}{%- if m.role == 'assistant' -%}"
    "{% generation %}{{ part.text + ' ' }}{% endgeneration %}{%- else -%}{{ part.text + ' ' }}{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
GEMMA = (
    "{{ bos_token }}{%- for m in messages -%}{%- set role = 'model' if m.role == 'assistant' else m.role -%}"
    "{{ '<start_of_turn>' + role + '\n' }}" + EACH_PART.replace("{{ part.text }}", "{{ part.text | trim }}")
    + "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)  # fmt: skip
SMOL = (
    "<|im_start|>{%- for m in messages -%}{{ m.role.capitalize() }}"
    "{%- if m.content[0].type == 'image' -%}{{ ':' }}{%- else -%}{{ ': ' }}{%- endif -%}" + EACH_PART
    + "<end_of_utterance>{{ '\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)  # fmt: skip


def _tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, *named.values()]})
    for name, token in named.items():  # as transformers' own tokenizers of these models have them
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def llava() -> Any:
    """LLaVA-1.5: one fixed number of tokens an image; its template writes no end token."""
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(images, bpe_tokenizer(), patch_size=14, vision_feature_select_strategy="default",
                          num_additional_image_tokens=1, chat_template=LLAVA)  # fmt: skip


def llava_next() -> Any:
    """LLaVA-NeXT: as many tokens as the picture has tiles."""
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28},
                                        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]])  # fmt: skip
    return LlavaNextProcessor(images, bpe_tokenizer(), patch_size=14, vision_feature_select_strategy="default",
                              num_additional_image_tokens=1, chat_template=LLAVA)  # fmt: skip


def qwen() -> Any:
    """Qwen2-VL: tokens by resolution, and M-RoPE grids beside the pixels."""
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 8)
    template = CHATML.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
    return without_video(Qwen2VLProcessor)(images, tokenizer, chat_template=template)


def idefics() -> Any:
    """Idefics3 and SmolVLM: tiles with row and column marks and line breaks between them."""
    tiles = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    tokenizer = _tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL.replace("IMAGE", "'<image>'"))


def paligemma() -> Any:
    """PaliGemma: no chat template; question and answer go in apart."""
    tokenizer = _tokenizer("<bos>")
    tokenizer.bos_token = "<bos>"
    from tokenizers.processors import TemplateProcessing

    kinds = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = kinds  # as Gemma's: no start token by itself, the pair is type 1
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    return PaliGemmaProcessor(images, tokenizer)


def gemma() -> Any:
    """Gemma 3: one mark in the text becomes begin, image tokens and end, with line breaks around."""
    tokenizer = _tokenizer("<bos>", "<start_of_turn>", "<end_of_turn>", boi_token="<start_of_image>",
                           eoi_token="<end_of_image>", image_token="<image_soft_token>")  # fmt: skip
    tokenizer.bos_token = "<bos>"
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    template = GEMMA.replace("IMAGE", "'<start_of_image>'")
    return Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=template)


def internvl() -> Any:
    """InternVL: tiles and a thumbnail between begin and end marks."""
    tokenizer = _tokenizer(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
                           video_token="<video>")  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    template = CHATML.replace("IMAGE", "'<IMG_CONTEXT>\n'")
    return without_video(InternVLProcessor)(images, tokenizer, image_seq_length=4, chat_template=template)


def blip() -> Any:
    """BLIP-2: no chat template; the images stand before the text by themselves."""
    images = BlipImageProcessorPil(size={"height": 28, "width": 28})
    return Blip2Processor(images, bpe_tokenizer(), num_query_tokens=4)


PROCESSORS = {
    "llava": llava,
    "llava-next": llava_next,
    "qwen2-vl": qwen,
    "idefics3": idefics,
    "paligemma": paligemma,
    "gemma3": gemma,
    "internvl": internvl,
    "blip-2": blip,
}
