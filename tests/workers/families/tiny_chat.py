"""Small checkpoints of models that the family `chat` serves; see tiny.py."""

from collections.abc import Callable
from pathlib import Path

import transformers

from tests.workers.families import tiny_parts as parts
from tests.workers.families.tiny_parts import IM_END, IM_START, Videos, turns
from workers.families.videoless import without_videos

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
            Videos("InternVLVideoProcessor"),
            image_seq_length=4,
            chat_template=turns("<IMG_CONTEXT>"),
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
            Videos("LlavaOnevisionVideoProcessor"),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            chat_template=turns(parts.IMAGE),
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
    "internvl": internvl,
    "llava-onevision": llava_onevision,
}
