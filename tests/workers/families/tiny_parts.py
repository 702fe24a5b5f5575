"""Parts of small checkpoints: tokenizers, and the settings of text and vision models.

Weights are random and spread wide (`initializer_range`): as they are initialised for training, no
picture would matter at all.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from workers.families.videoless import NoVideos

FAKE, IMAGE, END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
BEGIN = ["<unk>", "<s>", "</s>"]
CORPUS = [
    "User: What is in this image?\nAssistant: An image of two kittens in grass.",
    "Instruction: Provide an answer to the question. Use the image to answer.\n",
    "Question: Where are these people and what's the weather like? Answer: yes, no, red, blue.",
    "Instruction: Classify the following image into a single category from the following list:",
    "['animals', 'vegetables', 'city landscape', 'cars', 'office'].\nCategory: Vegetables",
    "Describe this image. This is an image of a large red wall. Once upon a time, there was a",
] * 20


def bytes_tokenizer(
    extra: list[str], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level, as the tokenizers of Llama 3 and Qwen are.

    Args:
        extra: More special tokens.
        named: More of them that the tokenizer has as attributes of these names.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, initial_alphabet=alphabet)
    return _wrapped(tokenizer, extra, named)


def pieces_tokenizer(extra: list[str]) -> PreTrainedTokenizerFast:
    """Words with their space in front and bytes for what is unknown, as SentencePiece has them."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    _train(trained, initial_alphabet=[])
    vocabulary = trained.get_vocab()
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = _merges(trained)
    model = models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(BEGIN)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(tokenizer, extra)


def _merges(trained: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(trained.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def _train(tokenizer: Tokenizer, initial_alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=BEGIN,
        initial_alphabet=initial_alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)


def _wrapped(
    tokenizer: Tokenizer, extra: list[str], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A",
        pair="<s> $A <s> $B",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>"))],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
        extra_special_tokens=named or {},
    )
    wrapped.add_special_tokens({"additional_special_tokens": extra})
    return wrapped


ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def text_config(model_type: str, vocabulary: int, width: int = 64) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        **ENDS,
    }


def vision_config(width: int, side: int = 56) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": 14,
        "initializer_range": 0.2,
    }


def turns(
    image: str,
    *,
    opening: str = f"{IM_START}{{role}}\n",
    closing: str = f"{IM_END}\n",
    first: str = "",
) -> str:
    """A chat template, in the manner of Qwen unless other marks are given.

    Args:
        image: What stands for an image.
        opening: Before a turn, with {role}.
        closing: After it.
        first: Before the first turn.
    """
    return (
        first
        + "{% for message in messages %}"
        + opening.replace("{role}", "{{ message['role'] }}")
        + "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        + closing
        + "{% endfor %}{% if add_generation_prompt %}"
        + opening.replace("{role}", "assistant")
        + "{% endif %}"
    )


class Videos(NoVideos):
    """The video part of a published processor, as far as its configuration goes."""

    _auto_class = None

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def to_dict(self) -> dict[str, Any]:
        return {"video_processor_type": self._kind}


def save(folder: Path, model: Any, config: Any, processor: Any) -> None:
    torch.manual_seed(1)
    made = model(config).eval()
    for name, weights in made.named_parameters():
        if not weights.any() and (weights.dim() > 1 or "gate" in name):
            # Training would find these: Gemma 3's way from images to words, gates of Llama 3.2.
            torch.nn.init.normal_(weights, std=0.2)
    made.generation_config = transformers.GenerationConfig(**ENDS)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
