"""Small checkpoints of models that count positions in several axes; see tiny.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from tests.workers.families import tiny_parts as parts
from tests.workers.families.tiny_parts import IM_END, IM_START, Videos, turns
from workers.families.videoless import without_videos

NAMED = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
INTERLEAVED = {**MROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}


def _qwen(
    folder: Path, name: str, patch: int, text: dict[str, Any], vision: dict[str, Any]
) -> None:
    """A model of the Qwen-VL line: `name` is the beginning of its classes."""
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END, *NAMED])
    side = 2 * patch
    pixels = transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": side**2, "longest_edge": 16 * side**2},
        patch_size=patch,
        merge_size=2,
    )
    # Qwen3.5 has the processor of Qwen3-VL.
    made = getattr(transformers, name.replace("3_5", "3VL") + "Processor")
    videos = "Qwen3VLVideoProcessor" if patch == 16 else "Qwen2VLVideoProcessor"
    with without_videos():
        processor = made(
            pixels,
            tokenizer,
            Videos(videos),
            chat_template=turns("<|vision_start|><|image_pad|><|vision_end|>"),
        )
    start, end, image, video = (tokenizer.convert_tokens_to_ids(token) for token in NAMED)
    config = getattr(transformers, f"{name}Config")(
        text_config={**parts.text_config("", len(tokenizer)), **text},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "initializer_range": 0.2,
            **vision,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")
    parts.save(folder, model, config, processor)


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL: the first with positions in time, height and width."""
    text = {"model_type": "qwen2_vl_text", "rope_parameters": MROPE}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    _qwen(folder, "Qwen2VL", 14, text, vision)


def qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: windows in its vision encoder."""
    text = {"model_type": "qwen2_5_vl_text", "rope_parameters": MROPE}
    _qwen(
        folder,
        "Qwen2_5_VL",
        14,
        text,
        {"depth": 3, "window_size": 56, "fullatt_block_indexes": [2]},
    )


def qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: features of several layers of its vision encoder."""
    text = {"model_type": "qwen3_vl_text", "rope_parameters": INTERLEAVED}
    vision = {"depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    _qwen(folder, "Qwen3VL", 16, text, vision)


def qwen3_5(folder: Path) -> None:
    """Qwen3.5: linear attention in most of its layers."""
    text = {
        "model_type": "qwen3_5_text",
        "rope_parameters": {**INTERLEAVED, "partial_rotary_factor": 1.0},
        "num_hidden_layers": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    _qwen(folder, "Qwen3_5", 16, text, {"depth": 2, "num_position_embeddings": 64})


def glm4v(folder: Path) -> None:
    """GLM-4V: tokens before and behind each image and video."""
    named = [f"<|{begin}{kind}|>" for kind in ("image", "video") for begin in ("", "begin_of_")]
    named += ["<|end_of_image|>", "<|end_of_video|>"]
    tokenizer = parts.bytes_tokenizer([*named, "<|user|>", "<|assistant|>"])
    ids = dict(zip(named, map(tokenizer.convert_tokens_to_ids, named), strict=True))
    pixels = transformers.Glm4vImageProcessorPil(
        size={"shortest_edge": 28**2, "longest_edge": 32 * 28**2}
    )
    with without_videos():
        processor = transformers.Glm4vProcessor(
            pixels,
            tokenizer,
            Videos("Glm4vVideoProcessor"),
            chat_template=turns(
                "<|begin_of_image|><|image|><|end_of_image|>", opening="<|{role}|>\n", closing="\n"
            ),
        )
    config = transformers.Glm4vConfig(
        text_config={
            **parts.text_config("glm4v_text", len(tokenizer)),
            "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0},
        },
        vision_config={
            "model_type": "glm4v_vision",
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 112,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "initializer_range": 0.2,
        },
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.Glm4vForConditionalGeneration, config, processor)


#: By the name of the checkpoint.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "qwen3.5": qwen3_5,
    "glm-4v": glm4v,
}
