"""How much arithmetic an image costs a model, counted from its configuration.

A multiplication and its addition are two operations. Counted are matrix products and attention;
all else is below a hundredth.
"""

from dataclasses import dataclass
from typing import Any

#: Of an H200: operations per second in bfloat16, without sparsity, as attained by large matrix
#: products (80 % of the 989 TFLOPS that the maker says), and bytes per second of its memory.
H200_FLOPS, H200_BYTES = 788e12, 4.3e12


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations for one image: the vision part and what leads to the text, the prompt, a token."""

    vision: float
    prompt: float
    token: float

    def all(self, tokens: float) -> float:
        """With an answer of so many tokens."""
        return self.vision + self.prompt + tokens * self.token


def idefics2(config: Any, patches: int, prompt: int, seen: int) -> Cost:
    """Operations of Idefics2.

    Args:
        patches: Of the picture.
        prompt: Tokens of the prompt, those of the picture included.
        seen: Tokens that a token of the answer looks at.
    """
    vision, perceiver, text = config.vision_config, config.perceiver_config, config.text_config
    encoder = _encoder(vision, patches)
    projection = patches * 2 * text.intermediate_size * (2 * vision.hidden_size + text.hidden_size)
    heads, size = perceiver.resampler_n_heads, perceiver.resampler_head_dim
    latents, width = perceiver.resampler_n_latents, text.hidden_size
    of_keys = 2 * perceiver.num_key_value_heads * size
    resampler = perceiver.resampler_depth * (
        2 * (patches + latents) * width * of_keys
        + 2 * latents * width * 2 * heads * size
        + 4 * latents * (patches + latents) * heads * size
        + 2 * latents * 3 * width * 4 * width
    )
    token = 2 * _text_weights(text)
    scores = 2 * text.hidden_size * text.vocab_size
    attention = 4 * text.num_hidden_layers * text.hidden_size
    return Cost(
        vision=encoder + projection + resampler,
        prompt=prompt * token + attention * prompt * prompt / 2 + scores,
        token=token + scores + attention * seen,
    )


def idefics(config: Any, images: int, prompt: int, seen: int) -> Cost:
    """Operations of IDEFICS, with the keys and values of images computed once."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    encoder = (
        vision.num_hidden_layers
        * patches
        * (
            2 * (4 * vision.embed_dim**2 + 2 * vision.embed_dim * vision.intermediate_size)
            + 4 * patches * vision.embed_dim
        )
    )
    perceiver, rows, resampler = config.perceiver_config, patches, 0.0
    if config.use_resampler:
        rows = perceiver.resampler_n_latents
        inner = perceiver.resampler_n_heads * perceiver.resampler_head_dim
        resampler = perceiver.resampler_depth * (
            2 * (patches + 2 * rows) * vision.embed_dim * 2 * inner
            + 4 * rows * (patches + rows) * inner
            + 2 * rows * 8 * vision.embed_dim**2
        )
    width, crossings = config.hidden_size, config.num_hidden_layers // config.cross_layer_interval
    mlp = 3 * width * config.intermediate_size
    own = config.num_hidden_layers * (4 * width**2 + mlp)
    crossed = crossings * (2 * width**2 + mlp)
    keys = crossings * 2 * 2 * images * rows * vision.embed_dim * width
    looks = crossings * 4 * images * rows * width
    token = 2 * (own + crossed) + looks
    scores = 2 * width * config.vocab_size
    attention = 4 * config.num_hidden_layers * width
    return Cost(
        vision=images * (encoder + resampler),
        prompt=prompt * token + keys + attention * prompt * prompt / 2 + scores,
        token=token + scores + attention * seen,
    )


def _encoder(vision: Any, patches: int) -> float:
    linear = 2 * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    return float(vision.num_hidden_layers * patches * (linear + 4 * patches * vision.hidden_size))


def _text_weights(text: Any) -> float:
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = text.hidden_size * size * 2 * (text.num_attention_heads + text.num_key_value_heads)
    mlp = 3 * text.hidden_size * text.intermediate_size
    return float(text.num_hidden_layers * (attention + mlp))
