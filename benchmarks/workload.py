"""What the benchmarks ask: models, pictures of mixed sizes, requests of mixed lengths.

`demo`  the demonstration model on drawn scenes: captions, detailed captions and questions
`mid`   an Idefics2 with random weights, its parts in the proportions of the 8B one; random weights
        never end an answer sensibly, so each item is told how many tokens to say
"""

import io
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

#: Lengths of answers where the model does not end them: mean 15, at most 30.
LENGTHS = (3, 5, 8, 10, 12, 14, 15, 16, 18, 19, 30)
#: Sizes of pictures as they are in COCO, landscape and portrait.
COCO = ((640, 480), (640, 427), (480, 640), (427, 640), (500, 375), (640, 640), (375, 500))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and the bytes of its picture."""

    request: dict[str, Any]
    data: bytes

    def read(self) -> bytes:
        """The picture's bytes."""
        return self.data

    @property
    def prompt(self) -> str:
        """The same question, as a prompt for the processor."""
        words = self.request.get("question") or self.request.get("prompt")
        return str(words or "Describe the image.")

    @property
    def tokens(self) -> int:
        """Most tokens of the answer."""
        return int(self.request["options"]["max_new_tokens"])


def demo(count: int, seed: int = 7) -> Iterator[Asked]:
    """Scenes, and what can be asked about them."""
    from workers.demo import scenes, texts

    rng = random.Random(seed)
    for number in range(count):
        scene = scenes.sample(rng, canvas=scenes.CANVASES[number % len(scenes.CANVASES)])
        request: dict[str, Any] = {"kind": "caption"}
        if number % 3 == 1:
            request["prompt"] = texts.DETAILED_PROMPTS[0]
        if number % 3 == 2:
            request = {"kind": "vqa", "question": texts.ask_anything(scene, rng)[0]}
        request["options"] = {"max_new_tokens": 64}
        yield Asked(request, scenes.encode(scene, number))


def photos(
    count: int, sizes: tuple[tuple[int, int], ...] = COCO, lengths: tuple[int, ...] = LENGTHS
) -> Iterator[Asked]:
    """Noisy JPEGs, each described in so many tokens."""
    rng = random.Random(11)
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        noise = Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3))
        picture = io.BytesIO()
        noise.resize((width, height), Image.Resampling.BICUBIC).save(picture, "JPEG", quality=90)
        said = lengths[number % len(lengths)]
        options = {"max_new_tokens": said, "min_new_tokens": said}
        yield Asked({"kind": "caption", "options": options}, picture.getvalue())


def save_photos(folder: Path, count: int, first: int = 0) -> None:
    """Save the photos as files, each with its number of tokens in its name: see `tokens_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, asked in enumerate(photos(first + count)):
        if number >= first:
            (folder / f"{number:04}-{asked.tokens}.jpg").write_bytes(asked.data)


def tokens_of(name: str) -> tuple[int, int]:
    """Fewest and most tokens of a picture's caption, by the name of its file."""
    _, _, told = name.rpartition(".")[0].partition("-")
    return (int(told), int(told)) if told else (0, 64)


def _sources() -> Iterator[str]:
    """The sources of Python's own library: texts that every machine has, to learn words from."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(errors="replace")


def mid(folder: Path, vocabulary: int = 0) -> None:
    """Save the mid-size model: 150 million parameters, nine tenths of them in the text model.

    Args:
        vocabulary: Tokens, where that of the demonstration model is too small.
    """
    import torch
    from transformers import (
        GenerationConfig,
        Idefics2Config,
        Idefics2ForConditionalGeneration,
        Idefics2ImageProcessorPil,
        Idefics2Processor,
    )

    from workers.demo.build import CHAT_TEMPLATE, make_processor
    from workers.families.checkpoints import DEMO

    demonstration = Idefics2Processor.from_pretrained(DEMO, local_files_only=True)
    tokenizer = demonstration.tokenizer
    if vocabulary:
        tokenizer = make_processor(_sources(), vocabulary).tokenizer
    processor = Idefics2Processor(
        Idefics2ImageProcessorPil(size={"shortest_edge": 168, "longest_edge": 448}),
        tokenizer,
        image_seq_len=32,
        chat_template=CHAT_TEMPLATE,
    )
    ends = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id")}
    config = Idefics2Config(
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "image_size": 448,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": 896,
            "resampler_n_latents": 32,
            "resampler_depth": 2,
            "resampler_n_heads": 8,
            "resampler_head_dim": 64,
            "num_key_value_heads": 2,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 896,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            **ends,
        },
        **ends,
    )
    torch.manual_seed(1)
    model = Idefics2ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **ends)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
