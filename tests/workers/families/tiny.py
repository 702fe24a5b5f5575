"""Small checkpoints with random weights, built from configurations, one for each shape of model.

They say nothing sensible, but what they say depends on every token and every pixel, which is
all that a comparison with transformers needs. The gates of IDEFICS are opened for that.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from tests.workers.families import tiny_axes, tiny_chat, tiny_others, tiny_recent
from tests.workers.families import tiny_parts as parts
from workers.demo.build import CHAT_TEMPLATE


def idefics(folder: Path, *, instruct: bool, resampler: bool, width: int = 64) -> None:
    """IDEFICS: base or instruct, with or without the resampler."""
    extra = [parts.FAKE, parts.IMAGE, *([parts.END] if instruct else [])]
    tokenizer = parts.pieces_tokenizer(extra)
    config = transformers.IdeficsConfig(
        vocab_size=len(tokenizer) - len(extra),
        additional_vocab_size=len(extra),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        cross_layer_interval=2,
        qk_layer_norms=True,
        use_resampler=resampler,
        alpha_initializer="random",
        alphas_initializer_range=0.6,
        alpha_type="vector",
        initializer_range=0.2,
        max_position_embeddings=2048,
        vision_config={
            "embed_dim": 64,
            "image_size": 56,
            "patch_size": 14,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "hidden_act": "gelu",
        },
        perceiver_config={
            "use_resampler": resampler,
            "resampler_n_latents": 8,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 16,
            "qk_layer_norms_perceiver": True,
        },
        **parts.ENDS,
    )
    pixels = transformers.IdeficsImageProcessorPil(image_size=56)
    processor = transformers.IdeficsProcessor(pixels, tokenizer, image_size=56)
    parts.save(folder, transformers.IdeficsForVisionText2Text, config, processor)


def idefics2(
    folder: Path, *, chat: bool = True, splitting: bool = False, width: int = 64, **config: Any
) -> None:
    """Idefics2: with a chat template or, as a base model, without; splitting pictures or not."""
    tokenizer = parts.pieces_tokenizer([parts.FAKE, parts.IMAGE, parts.END])
    pixels = transformers.Idefics2ImageProcessorPil(
        size={"shortest_edge": 42, "longest_edge": 112}, do_image_splitting=splitting
    )
    processor = transformers.Idefics2Processor(
        pixels, tokenizer, image_seq_len=8, chat_template=CHAT_TEMPLATE if chat else None
    )
    described = transformers.Idefics2Config(
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
        vision_config=parts.vision_config(64, side=112),
        perceiver_config={
            "hidden_size": width,
            "resampler_n_latents": 8,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": width // 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.2,
        },
        text_config={**parts.text_config("mistral", len(tokenizer), width), "sliding_window": None},
        **config,
    )
    parts.save(folder, transformers.Idefics2ForConditionalGeneration, described, processor)


def idefics3(folder: Path, *, smol: bool = False) -> None:
    """Idefics3, or SmolVLM, whose processor and configuration have other names."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = parts.bytes_tokenizer([parts.FAKE, parts.IMAGE, parts.END, "<global-img>", *rows])
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    made = transformers.SmolVLMImageProcessorPil if smol else transformers.Idefics3ImageProcessorPil
    # Like the published ones, the template writes the first token itself.
    processor = transformers.Idefics3Processor(
        made(**sizes), tokenizer, image_seq_len=4, chat_template=f"<s>{CHAT_TEMPLATE}"
    )
    kind = transformers.SmolVLMConfig if smol else transformers.Idefics3Config
    config = kind(
        image_token_id=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        vision_config=parts.vision_config(48),
        text_config=parts.text_config("llama", len(tokenizer)),
    )
    model = (
        transformers.SmolVLMForConditionalGeneration
        if smol
        else transformers.Idefics3ForConditionalGeneration
    )
    parts.save(folder, model, config, processor)


#: Every shape of model that is served, by the name of its checkpoint.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "idefics-base": lambda folder: idefics(folder, instruct=False, resampler=False),
    "idefics-base-resampler": lambda folder: idefics(folder, instruct=False, resampler=True),
    "idefics-instruct": lambda folder: idefics(folder, instruct=True, resampler=True),
    "idefics2": idefics2,
    "idefics2-base": lambda folder: idefics2(folder, chat=False),
    "idefics2-splitting": lambda folder: idefics2(folder, splitting=True),
    "idefics3": idefics3,
    "smolvlm": lambda folder: idefics3(folder, smol=True),
    **tiny_chat.CHECKPOINTS,
    **tiny_axes.CHECKPOINTS,
    **tiny_recent.CHECKPOINTS,
    **tiny_others.CHECKPOINTS,
}
