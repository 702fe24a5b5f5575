"""Small checkpoints of more models that the family `chat` serves; see tiny.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from tests.workers.families import tiny_parts as parts
from tests.workers.families.tiny_parts import IM_END, IM_START, Videos, turns
from workers.families import processors
from workers.families.videoless import without_videos

SQUARE = {"height": 56, "width": 56}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
SIX_LAYERS = {
    "num_hidden_layers": 6,
    "sliding_window": 64,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}
OF_GEMMA = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}


def _gemma_turns(image: str) -> str:
    return turns(image, opening="<start_of_turn>{role}\n", closing="<end_of_turn>\n", first="<s>")


def gemma3(folder: Path) -> None:
    """Gemma 3: windows in most layers, and images whose tokens see each other."""
    tokenizer = parts.bytes_tokenizer(["<start_of_turn>", "<end_of_turn>"], OF_GEMMA)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in OF_GEMMA.items()}
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size=SQUARE),
        tokenizer,
        image_seq_length=4,
        chat_template=_gemma_turns("<start_of_image>"),
    )
    config = transformers.Gemma3Config(
        text_config={
            **parts.text_config("gemma3_text", len(tokenizer)),
            **SIX_LAYERS,
            "query_pre_attn_scalar": 16,
        },
        vision_config={**parts.vision_config(48), **SIGLIP},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.Gemma3ForConditionalGeneration, config, processor)


def gemma4(folder: Path) -> None:
    """Gemma 4: layers of different sizes."""
    named = parts.bytes_tokenizer(["<start_of_turn>", "<end_of_turn>"], OF_GEMMA)
    with without_videos():
        processor = transformers.Gemma4Processor(
            transformers.Gemma4AudioFeatureExtractor(),
            transformers.Gemma4ImageProcessorPil(patch_size=16, max_soft_tokens=70),
            named,
            Videos("Gemma4VideoProcessor"),
            image_seq_length=70,
            chat_template=_gemma_turns("<image_soft_token>"),
        )
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in OF_GEMMA.items()}
    config = transformers.Gemma4Config(
        text_config={
            **parts.text_config("gemma4_text", len(tokenizer)),
            **SIX_LAYERS,
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size_per_layer_input": 16,
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "patch_size": 16,
            "position_embedding_size": 1024,
            "initializer_range": 0.2,
        },
        boi_token_id=ids["boi_token"],
        eoi_token_id=ids["eoi_token"],
        image_token_id=ids["image_token"],
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        boa_token_id=ids["boa_token"],
        audio_token_id=ids["audio_token"],
        tie_word_embeddings=True,
    )
    parts.save(folder, transformers.Gemma4ForConditionalGeneration, config, processor)


def llava_next(folder: Path) -> None:
    """LLaVA-NeXT: an image in tiles of its own shape."""
    tokenizer = parts.pieces_tokenizer([parts.IMAGE])
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 56}, crop_size=SQUARE, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=turns("<image>\n", opening="{role}: ", closing="\n"),
    )
    config = transformers.LlavaNextConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "clip_vision_model",
            "num_hidden_layers": 3,
            "projection_dim": 48,
        },
        text_config={**parts.text_config("mistral", len(tokenizer)), "sliding_window": None},
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.LlavaNextForConditionalGeneration, config, processor)


def _pixtral(folder: Path, side: int, name: str, **own: Any) -> None:
    tokens = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
    tokenizer = parts.bytes_tokenizer(tokens)
    merged = own.pop("spatial_merge_size", 1)
    pixels = transformers.PixtralImageProcessorPil(
        patch_size={"height": side * merged, "width": side * merged},
        size={"longest_edge": 4 * side * merged},
    )
    processor = processors.pixtral_class()(
        pixels,
        tokenizer,
        patch_size=side,
        spatial_merge_size=merged,
        chat_template=turns("[IMG]", opening="[INST]", closing="[/INST]", first="<s>"),
    )
    vision = parts.vision_config(48, side=4 * side * merged)
    config = getattr(transformers, f"{name}Config")(
        vision_config={**vision, "model_type": "pixtral", "patch_size": side},
        text_config={**parts.text_config("mistral", len(tokenizer)), "sliding_window": None},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **own,
    )
    parts.save(folder, getattr(transformers, f"{name}ForConditionalGeneration"), config, processor)


def pixtral(folder: Path) -> None:
    """Pixtral: images of any shape, with a token at the end of each row of patches."""
    _pixtral(folder, 16, "Llava", vision_feature_select_strategy="full")


def mistral3(folder: Path) -> None:
    """Mistral 3: Pixtral's vision encoder, four patches to a token."""
    _pixtral(folder, 14, "Mistral3", spatial_merge_size=2)


def aya_vision(folder: Path) -> None:
    """Aya Vision: tiles, each named in the prompt."""
    tokens = [
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
    ]
    tiles = ["TILE", "TILE_GLOBAL", *[f"TILE_{number}" for number in range(1, 13)]]
    tokenizer = parts.bytes_tokenizer([*tokens, "<|START|>", "<|END|>", *tiles])
    processor = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer,
        patch_size=14,
        img_size=56,
        downsample_factor=2,
        chat_template=turns("<image>", opening="<|START|>{role} ", closing="<|END|>", first="<s>"),
    )
    config = transformers.AyaVisionConfig(
        vision_config={**parts.vision_config(48), **SIGLIP},
        text_config={
            **parts.text_config("cohere2", len(tokenizer)),
            "sliding_window": 64,
            "logit_scale": 1.0,
            "tie_word_embeddings": True,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        tie_word_embeddings=True,
    )
    parts.save(folder, transformers.AyaVisionForConditionalGeneration, config, processor)


def ovis2(folder: Path) -> None:
    """Ovis2: a vocabulary of images, and features for the tokens around one."""
    indicators = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    made_up = [f"<ovis_{number}>" for number in range(5)]
    tokenizer = parts.bytes_tokenizer(
        ["<image>", *made_up, "<IMG_ATOM>", *indicators, IM_START, IM_END]
    )
    processor = transformers.Ovis2Processor(
        transformers.Ovis2ImageProcessorPil(size=SQUARE),
        tokenizer,
        image_seq_length=16,
        chat_template=turns("<image>\n"),
    )
    config = transformers.Ovis2Config(
        vision_config={
            **parts.vision_config(48),
            "model_type": "ovis2_vision",
            "vocab_size": 64,
            "num_visual_indicator_tokens": 5,
            "hidden_stride": 1,
        },
        text_config=parts.text_config("qwen2", len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[tokenizer.convert_tokens_to_ids(one) for one in indicators],
        vocab_size=len(tokenizer),
        hidden_size=64,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.Ovis2ForConditionalGeneration, config, processor)


def deepseek_vl(folder: Path) -> None:
    """DeepSeek-VL."""
    tokenizer = parts.bytes_tokenizer([], {"image_token": "<image_placeholder>"})
    processor = transformers.DeepseekVLProcessor(
        transformers.DeepseekVLImageProcessorPil(size=SQUARE),
        tokenizer,
        num_image_tokens=16,
        chat_template=turns("<image_placeholder>", opening="{role}: ", closing="\n"),
    )
    config = transformers.DeepseekVLConfig(
        text_config=parts.text_config("llama", len(tokenizer)),
        vision_config={**parts.vision_config(48), **SIGLIP},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.DeepseekVLForConditionalGeneration, config, processor)


#: By the name of the checkpoint.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "gemma3": gemma3,
    "gemma4": gemma4,
    "llava-next": llava_next,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "aya-vision": aya_vision,
    "ovis2": ovis2,
    "deepseek-vl": deepseek_vl,
}
