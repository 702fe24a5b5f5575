"""Small checkpoints of models that the family `chat` serves; see tiny.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from tests.workers.families import tiny_parts as parts
from workers.families.videoless import NoVideos, without_videos

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}"
    "{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava(folder: Path) -> None:
    """LLaVA: the simplest of the models that have no file of their own here."""
    tokenizer = parts.pieces_tokenizer([parts.IMAGE])
    pixels = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = transformers.LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        image_token=parts.IMAGE,
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "clip_vision_model",
            "num_hidden_layers": 3,
            "projection_dim": 48,
        },
        text_config=parts.text_config("llama", len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.LlavaForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> None:
    """PaliGemma: no conversations, no chat template, token types of its own."""
    tokenizer = parts.bytes_tokenizer([parts.IMAGE])
    pixels = transformers.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    pixels.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pixels, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "siglip_vision_model",
            "projection_dim": 64,
            "vision_use_head": False,
        },
        text_config=parts.text_config("gemma", len(processor.tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        projection_dim=64,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.PaliGemmaForConditionalGeneration, config, processor)


def _template(image: str) -> str:
    """A chat template in the manner of Qwen, with `image` for each image."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


class _Videos(NoVideos):
    """The video part of a published processor, as far as its configuration goes."""

    _auto_class = None

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def to_dict(self) -> dict[str, Any]:
        return {"video_processor_type": self._kind}


def qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: positions in three dimensions, windows in its vision encoder."""
    named = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END, *named])
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    pixels = transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28**2, "longest_edge": 16 * 28**2}, patch_size=14, merge_size=2
    )
    with without_videos():
        processor = transformers.Qwen2_5_VLProcessor(
            pixels, tokenizer, _Videos("Qwen2VLVideoProcessor"), chat_template=_template(image)
        )
    start, end, picture, video = (tokenizer.convert_tokens_to_ids(token) for token in named)
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **parts.text_config("qwen2_5_vl_text", len(tokenizer)),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "window_size": 56,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [2],
            "initializer_range": 0.2,
        },
        image_token_id=picture,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, processor)


def internvl(folder: Path) -> None:
    """InternVL: a patch has two sides, large pictures are cut into tiles."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END], named)
    pixels = transformers.GotOcr2ImageProcessorPil(
        size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4
    )
    with without_videos():
        processor = transformers.InternVLProcessor(
            pixels,
            tokenizer,
            _Videos("InternVLVideoProcessor"),
            image_seq_length=4,
            chat_template=_template("<IMG_CONTEXT>"),
        )
    config = transformers.InternVLConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "internvl_vision",
            "image_size": [56, 56],
            "patch_size": [14, 14],
        },
        text_config=parts.text_config("qwen2", len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.InternVLForConditionalGeneration, config, processor)


def llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision: one image is seen in tiles, several are each seen whole."""
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END, parts.IMAGE, "<video>"])
    pinpoints = [[56 * rows, 56 * columns] for rows in (1, 2) for columns in (1, 2)]
    pixels = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints
    )
    with without_videos():
        processor = transformers.LlavaOnevisionProcessor(
            pixels,
            tokenizer,
            _Videos("LlavaOnevisionVideoProcessor"),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            chat_template=_template(parts.IMAGE),
        )
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
        text_config=parts.text_config("qwen2", len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.LlavaOnevisionForConditionalGeneration, config, processor)


#: By the name of the checkpoint.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "qwen2.5-vl": qwen2_5_vl,
    "internvl": internvl,
    "llava-onevision": llava_onevision,
}
