"""Small checkpoints of models that do something their own way; see tiny.py."""

import json
from collections.abc import Callable
from pathlib import Path

import transformers
from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

from tests.workers.families import tiny_parts as parts
from tests.workers.families.tiny_parts import IM_END, IM_START, turns
from workers.demo.build import CHAT_TEMPLATE

SQUARE = {"height": 56, "width": 56}


def paligemma(folder: Path, text: str = "gemma") -> None:
    """PaliGemma: no conversations, no chat template, token types of its own."""
    tokenizer = parts.bytes_tokenizer([parts.IMAGE])
    pixels = transformers.SiglipImageProcessorPil(size=SQUARE)
    pixels.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pixels, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "siglip_vision_model",
            "projection_dim": 64,
            "vision_use_head": False,
        },
        text_config={
            **parts.text_config(text, len(processor.tokenizer)),
            **({"query_pre_attn_scalar": 16, "sliding_window": 64} if text == "gemma2" else {}),
        },
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        projection_dim=64,
        tie_word_embeddings=False,
    )
    parts.save(folder, transformers.PaliGemmaForConditionalGeneration, config, processor)


def mllama(folder: Path) -> None:
    """Llama 3.2 Vision: layers that attend to images, and an image token behind the vocabulary."""
    header = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = parts.bytes_tokenizer(["<|python_tag|>", *header, "<|image|>"])
    vocabulary = tokenizer.convert_tokens_to_ids("<|image|>")
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4),
        tokenizer,
        chat_template=turns(
            "<|image|>",
            opening="<|start_header_id|>{role}<|end_header_id|>\n\n",
            closing="<|eot_id|>",
            first="<s>",
        ),
    )
    config = transformers.MllamaConfig(
        vision_config={
            **parts.vision_config(48),
            "attention_heads": 4,
            "num_global_layers": 1,
            "vision_output_dim": 96,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [list(one) for one in get_all_supported_aspect_ratios(4)],
        },
        text_config={
            **parts.text_config("mllama_text_model", vocabulary),
            "num_hidden_layers": 4,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=vocabulary,
    )
    parts.save(folder, transformers.MllamaForConditionalGeneration, config, processor)


def janus(folder: Path) -> None:
    """Janus: a model that also draws, of which the reading half is used."""
    named = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = parts.bytes_tokenizer([], named)
    processor = transformers.JanusProcessor(
        transformers.JanusImageProcessorPil(size=SQUARE),
        tokenizer,
        num_image_tokens=16,
        chat_template=turns("<image_placeholder>", opening="{role}: ", closing="\n"),
    )
    config = transformers.JanusConfig(
        text_config=parts.text_config("llama", len(tokenizer)),
        vision_config={
            **parts.vision_config(48),
            "model_type": "janus_vision_model",
            "projection_dim": 64,
            "num_image_tokens": 16,
            "mlp_ratio": 2.0,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 32,
            "latent_channels": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_patches": 4,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    parts.save(folder, transformers.JanusForConditionalGeneration, config, processor)


def _qformer(vocabulary: int) -> dict[str, object]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "encoder_hidden_size": 48,
        "initializer_range": 0.2,
    }


def blip2(folder: Path) -> None:
    """BLIP-2: one image, before all text; no chat template."""
    tokenizer = parts.pieces_tokenizer([])
    pixels = transformers.BlipImageProcessorPil(size=SQUARE)
    processor = transformers.Blip2Processor(pixels, tokenizer, num_query_tokens=4)
    config = transformers.Blip2Config(
        vision_config={**parts.vision_config(48), "model_type": "blip_2_vision_model"},
        qformer_config=_qformer(len(tokenizer)),
        text_config={
            **parts.text_config("opt", len(tokenizer)),
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
            "init_std": 0.2,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
    )
    parts.save(folder, transformers.Blip2ForConditionalGeneration, config, processor)


def instructblip(folder: Path) -> None:
    """InstructBLIP: the part that reads the image reads the question as well."""
    tokenizer, other = parts.pieces_tokenizer([]), parts.pieces_tokenizer([])
    processor = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessorPil(size=SQUARE), tokenizer, other, num_query_tokens=4
    )
    config = transformers.InstructBlipConfig(
        vision_config={**parts.vision_config(48), "model_type": "instructblip_vision_model"},
        qformer_config=_qformer(len(other)),
        text_config=parts.text_config("llama", len(tokenizer)),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids(parts.IMAGE),
    )
    parts.save(folder, transformers.InstructBlipForConditionalGeneration, config, processor)


def smolvlm2(folder: Path) -> None:
    """SmolVLM2: a processor for videos as well, which needs packages of its own."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    named = {
        "fake_image_token": parts.FAKE,
        "image_token": parts.IMAGE,
        "global_image_token": "<global-img>",
        "end_of_utterance_token": parts.END,
    }
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END, *rows], named)
    processor = transformers.Idefics3Processor(
        transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
        ),
        tokenizer,
        image_seq_len=4,
        chat_template=f"{IM_START}{CHAT_TEMPLATE}",
    )
    config = transformers.SmolVLMConfig(
        image_token_id=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        vision_config=parts.vision_config(48),
        text_config=parts.text_config("llama", len(tokenizer)),
    )
    parts.save(folder, transformers.SmolVLMForConditionalGeneration, config, processor)
    path = folder / "processor_config.json"
    published = {**json.loads(path.read_text()), "processor_class": "SmolVLMProcessor"}
    path.write_text(json.dumps(published))


def lfm2_vl(folder: Path) -> None:
    """LFM2-VL: convolutions between its layers, and a processor that needs torchvision."""
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    named = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
    tokenizer = parts.bytes_tokenizer([IM_START, IM_END, *named, *tiles])
    processor = transformers.Lfm2VlProcessor(
        transformers.Lfm2VlImageProcessor(
            tile_size=64,
            encoder_patch_size=16,
            min_image_tokens=1,
            max_image_tokens=4,
            max_tiles=4,
            size={"height": 64, "width": 64},
        ),
        tokenizer,
        chat_template=turns("<image>", first="<s>"),
    )
    config = transformers.Lfm2VlConfig(
        vision_config={
            **parts.vision_config(48),
            "model_type": "siglip2_vision_model",
            "num_patches": 16,
            "patch_size": 16,
            "vision_use_head": False,
        },
        text_config={
            **parts.text_config("lfm2", len(tokenizer)),
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 16,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        tie_word_embeddings=True,
    )
    parts.save(folder, transformers.Lfm2VlForConditionalGeneration, config, processor)


#: By the name of the checkpoint.
CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "paligemma": paligemma,
    # The scores of its attention are capped.
    "paligemma2": lambda folder: paligemma(folder, "gemma2"),
    "mllama": mllama,
    "janus": janus,
    "blip-2": blip2,
    "instructblip": instructblip,
    "smolvlm2": smolvlm2,
}
