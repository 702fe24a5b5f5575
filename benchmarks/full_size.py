"""Idefics2-8B and idefics-9b with random weights, at full size or small, made where they run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from workers.families import checkpoints


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a model, and the number of images for each arm."""

    config: Callable[[Any], Any]
    images: dict[str, int]
    longest: int


def _idefics2(tokenizer: Any, **small: Any) -> Any:
    """Configuration of HuggingFaceM4/idefics2-8b, or a smaller one."""
    told: dict[str, Any] = {
        "vision": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27},
        "vision_heads": 16,
        "text": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        "heads": (32, 8),
        "resampler": (64, 3, 16, 96, 4),
        **small,
    }
    latents, depth, heads, size, of_keys = told["resampler"]
    return transformers.Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        vision_config={
            **told["vision"],
            "num_attention_heads": told["vision_heads"],
            "image_size": 980,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": told["text"]["hidden_size"],
            "resampler_n_latents": latents,
            "resampler_depth": depth,
            "resampler_n_heads": heads,
            "resampler_head_dim": size,
            "num_key_value_heads": of_keys,
        },
        text_config={
            "model_type": "mistral",
            **told["text"],
            "num_attention_heads": told["heads"][0],
            "num_key_value_heads": told["heads"][1],
            "vocab_size": 32003,
            "max_position_embeddings": 32768,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        pad_token_id=0,
    )


def _idefics(tokenizer: Any, **small: Any) -> Any:
    """Configuration of HuggingFaceM4/idefics-9b, or a smaller one."""
    return transformers.IdeficsConfig(
        **{
            "vocab_size": 32000,
            "additional_vocab_size": 3,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "cross_layer_interval": 4,
            "vision_config": {
                "embed_dim": 1280,
                "image_size": 224,
                "patch_size": 14,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "intermediate_size": 5120,
            },
            "perceiver_config": {
                "use_resampler": True,
                "resampler_n_latents": 64,
                "resampler_depth": 6,
                "resampler_n_heads": 16,
                "resampler_head_dim": 96,
                "qk_layer_norms_perceiver": True,
            },
            **small,
        },
        use_resampler=True,
        qk_layer_norms=True,
        alpha_initializer="random",
        alphas_initializer_range=0.5,
        alpha_type="vector",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


SMALL_TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
SIZES: dict[str, dict[str, Size]] = {
    "full": {
        "idefics2": Size(_idefics2, {"loop": 24, "16": 128, "64": 256, "engine": 768}, 980),
        "idefics": Size(_idefics, {"loop": 24, "16": 256, "64": 512, "engine": 2048}, 224),
    },
    "small": {
        "idefics2": Size(
            lambda tokenizer: _idefics2(
                tokenizer,
                vision={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
                vision_heads=4,
                text=SMALL_TEXT,
                heads=(4, 2),
                resampler=(8, 1, 4, 32, 2),
            ),
            {"loop": 4, "16": 16, "64": 64, "engine": 32},
            196,
        ),
        "idefics": Size(
            lambda tokenizer: _idefics(
                tokenizer,
                **SMALL_TEXT,
                num_attention_heads=4,
                cross_layer_interval=1,
                vision_config={
                    "embed_dim": 64,
                    "image_size": 56,
                    "patch_size": 14,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 128,
                },
                perceiver_config={
                    "use_resampler": True,
                    "resampler_n_latents": 8,
                    "resampler_depth": 1,
                    "resampler_n_heads": 4,
                    "resampler_head_dim": 16,
                    "qk_layer_norms_perceiver": True,
                },
            ),
            {"loop": 4, "16": 16, "64": 64, "engine": 32},
            56,
        ),
    },
}


def prepare_folder(folder: Path, family: str, size: Size) -> Any:
    """Make a checkpoint without weights: config, tokenizer, processor. Returns the first."""
    demonstration = transformers.Idefics2Processor.from_pretrained(
        checkpoints.DEMO, local_files_only=True
    )
    tokenizer = demonstration.tokenizer
    config = size.config(tokenizer)
    if family == "idefics2":
        shortest = min(378, size.longest // 2)
        pixels = transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": shortest, "longest_edge": size.longest}
        )
        processor = transformers.Idefics2Processor(
            pixels,
            tokenizer,
            image_seq_len=config.perceiver_config.resampler_n_latents,
            chat_template=demonstration.chat_template,
        )
    else:
        added = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
        # Its embeddings want added tokens after all others.
        tokenizer = _with_last(tokenizer, added, config.vocab_size)
        pixels = transformers.IdeficsImageProcessorPil(image_size=size.longest)
        processor = transformers.IdeficsProcessor(pixels, tokenizer, image_size=size.longest)
    config.save_pretrained(folder)
    transformers.GenerationConfig(
        pad_token_id=0, bos_token_id=1, eos_token_id=tokenizer.eos_token_id
    ).save_pretrained(folder)
    processor.save_pretrained(folder)
    return config


def _with_last(tokenizer: Any, added: list[str], vocabulary: int) -> Any:
    """A word tokenizer of `vocabulary` words, then the added tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = [token for token in tokenizer.get_vocab() if token not in added]
    ends = ["<unk>", "<s>", "</s>"]
    words = [*ends, *(token for token in known if token not in ends)]
    words += [f"word{number}" for number in range(vocabulary - len(words))]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        padding_side="left",
    )
    wrapped.add_special_tokens({"additional_special_tokens": added})
    return wrapped


def build(config: Any, device: str, dtype: torch.dtype) -> Any:
    """The model with random weights, made where it runs: nothing is written or read."""
    torch.manual_seed(1)
    kind = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        model = kind.from_config(config, dtype=dtype)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1.0)
            elif "alpha" in name:
                weight.fill_(0.5)
            else:
                weight.normal_(0.0, 0.02)
    model.tie_weights()
    _fill_buffers(model, config, device)
    return model.eval()


def _fill_buffers(model: Any, config: Any, device: str) -> None:
    """What is computed when a model is made and not stored: its parts make it anew."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name in {"inv_freq", "original_inv_freq"}:
                fresh = type(module)(module.config if hasattr(module, "config") else config)
                module.register_buffer(name, getattr(fresh, name).to(device), persistent=False)
            elif name == "position_ids":
                count = buffer.shape[-1]
                setattr(module, name, torch.arange(count, device=device).expand(1, -1))
            else:
                raise SystemExit(f"{type(module).__name__} has a buffer {name} nobody fills")
