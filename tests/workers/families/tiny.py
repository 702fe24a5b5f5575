"""Small checkpoints with random weights, built from configurations, one for each shape of model.

They say nothing sensible, but what they say depends on every token and every pixel, which is
all that a comparison with transformers needs. Weights are spread wide (`initializer_range`) and
the gates of IDEFICS are opened: as they are initialised, no picture would matter at all.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from workers.demo.build import CHAT_TEMPLATE

FAKE, IMAGE, END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
BEGIN = ["<unk>", "<s>", "</s>"]
CORPUS = [
    "User: What is in this image?\nAssistant: An image of two kittens in grass.",
    "Instruction: Provide an answer to the question. Use the image to answer.\n",
    "Question: Where are these people and what's the weather like? Answer: yes, no, red, blue.",
    "Instruction: Classify the following image into a single category from the following list:",
    "['animals', 'vegetables', 'city landscape', 'cars', 'office'].\nCategory: Vegetables",
    "Describe this image. This is an image of a large red wall. Once upon a time, there was a",
] * 20


def bytes_tokenizer(extra: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level, as the tokenizers of Llama 3 and Qwen are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, initial_alphabet=alphabet)
    return _wrapped(tokenizer, extra)


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


def _wrapped(tokenizer: Tokenizer, extra: list[str]) -> PreTrainedTokenizerFast:
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
    )
    wrapped.add_special_tokens({"additional_special_tokens": extra})
    return wrapped


ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _text(model_type: str, vocabulary: int, width: int = 64) -> dict[str, Any]:
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


def _vision(width: int, side: int = 56) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": 14,
        "initializer_range": 0.2,
    }


def idefics(folder: Path, *, instruct: bool, resampler: bool, width: int = 64) -> None:
    """IDEFICS: base or instruct, with or without the resampler."""
    extra = [FAKE, IMAGE, *([END] if instruct else [])]
    tokenizer = pieces_tokenizer(extra)
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
        **ENDS,
    )
    pixels = transformers.IdeficsImageProcessorPil(image_size=56)
    processor = transformers.IdeficsProcessor(pixels, tokenizer, image_size=56)
    _save(folder, transformers.IdeficsForVisionText2Text, config, processor)


def idefics2(
    folder: Path, *, chat: bool = True, splitting: bool = False, width: int = 64, **config: Any
) -> None:
    """Idefics2: with a chat template or, as a base model, without; splitting pictures or not."""
    tokenizer = pieces_tokenizer([FAKE, IMAGE, END])
    pixels = transformers.Idefics2ImageProcessorPil(
        size={"shortest_edge": 42, "longest_edge": 112}, do_image_splitting=splitting
    )
    processor = transformers.Idefics2Processor(
        pixels, tokenizer, image_seq_len=8, chat_template=CHAT_TEMPLATE if chat else None
    )
    described = transformers.Idefics2Config(
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
        vision_config=_vision(64, side=112),
        perceiver_config={
            "hidden_size": width,
            "resampler_n_latents": 8,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": width // 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.2,
        },
        text_config={**_text("mistral", len(tokenizer), width), "sliding_window": None},
        **config,
    )
    _save(folder, transformers.Idefics2ForConditionalGeneration, described, processor)


def idefics3(folder: Path, *, smol: bool = False) -> None:
    """Idefics3, or SmolVLM, whose processor and configuration have other names."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = bytes_tokenizer([FAKE, IMAGE, END, "<global-img>", *rows])
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    made = transformers.SmolVLMImageProcessorPil if smol else transformers.Idefics3ImageProcessorPil
    # Like the published ones, the template writes the first token itself.
    processor = transformers.Idefics3Processor(
        made(**sizes), tokenizer, image_seq_len=4, chat_template=f"<s>{CHAT_TEMPLATE}"
    )
    kind = transformers.SmolVLMConfig if smol else transformers.Idefics3Config
    config = kind(
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        vision_config=_vision(48),
        text_config=_text("llama", len(tokenizer)),
    )
    model = (
        transformers.SmolVLMForConditionalGeneration
        if smol
        else transformers.Idefics3ForConditionalGeneration
    )
    _save(folder, model, config, processor)


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
    tokenizer = pieces_tokenizer([IMAGE])
    pixels = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = transformers.LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config={
            **_vision(48),
            "model_type": "clip_vision_model",
            "num_hidden_layers": 3,
            "projection_dim": 48,
        },
        text_config=_text("llama", len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    _save(folder, transformers.LlavaForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> None:
    """PaliGemma: no conversations, no chat template, token types of its own."""
    tokenizer = bytes_tokenizer([IMAGE])
    pixels = transformers.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    pixels.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pixels, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={
            **_vision(48),
            "model_type": "siglip_vision_model",
            "projection_dim": 64,
            "vision_use_head": False,
        },
        text_config=_text("gemma", len(processor.tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        projection_dim=64,
        tie_word_embeddings=False,
    )
    _save(folder, transformers.PaliGemmaForConditionalGeneration, config, processor)


def _save(folder: Path, model: Any, config: Any, processor: Any) -> None:
    torch.manual_seed(1)
    made = model(config).eval()
    made.generation_config = transformers.GenerationConfig(**ENDS)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)


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
    "llava": llava,
}
