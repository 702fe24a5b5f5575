"""`python -m workers.families.sizes FOLDER`: how many bytes a model's weights take, by part.

Counted from config.json alone, nothing is loaded. Without a folder it counts Idefics2-8B.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, Idefics2Config

from workers.families import model_parts
from workers.families.model_parts import is_vision
from workers.families.processors import LOCAL

#: A 4-bit weight has one constant for 64 weights, which is an 8-bit number with a float32 for 256
#: of them when it is quantised too, and a float32 when it is not.
NF4_DOUBLE = 1 / 2 + 1 / 64 + 4 / (64 * 256)
BF16 = 2.0


@dataclass(frozen=True, slots=True)
class PartSize:
    """Number of weights of one part of a model.

    Attributes:
        linear: Weights of linear layers, which can be quantised; but for the last layer.
        other: All else: embeddings, norms, biases, the last layer.
    """

    name: str
    linear: int
    other: int
    in_vision: bool

    def size_bytes(self, quantize: str) -> float:
        """Bytes with the weights in bfloat16 ("none"), "nf4", "fp4" or "nf4-all"."""
        smaller = quantize == "nf4-all" or (quantize in ("nf4", "fp4") and not self.in_vision)
        return self.linear * (NF4_DOUBLE if smaller else BF16) + self.other * BF16


def parts(config: Any) -> list[PartSize]:
    """Count a model's weights by its parts."""
    model = model_parts.without_weights(config)
    counted = [
        _part(name, module, in_vision=is_vision(name))
        for _, name, module in model_parts.parts(model)
    ]
    head = sum(weight.numel() for weight in model.get_output_embeddings().parameters())
    return [*counted, PartSize("lm_head", 0, head, in_vision=False)]


def _part(name: str, module: torch.nn.Module, *, in_vision: bool) -> PartSize:
    everything = sum(weight.numel() for weight in module.parameters())
    linear = sum(
        layer.weight.numel() for layer in module.modules() if isinstance(layer, torch.nn.Linear)
    )
    return PartSize(name, linear, everything - linear, in_vision)


def idefics2_8b() -> Idefics2Config:
    """Return the configuration of HuggingFaceM4/idefics2-8b."""
    return Idefics2Config(
        image_token_id=32001,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 980,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": 4096,
            "resampler_n_latents": 64,
            "resampler_depth": 3,
            "resampler_n_heads": 16,
            "resampler_head_dim": 96,
            "num_key_value_heads": 4,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": 32003,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
    )


def table(config: Any) -> str:
    """Render a Markdown table: weights and gigabytes of each part."""
    counted = parts(config)
    total = sum(part.linear + part.other for part in counted)
    lines = [
        "| part | parameters | bfloat16 | nf4 | nf4-all |",
        "|---|---|---|---|---|",
        *(_line(part.name, part.linear + part.other, [part]) for part in counted),
        _line("all", total, counted),
    ]
    return "\n".join(lines)


def _line(name: str, parameters: int, counted: Sequence[PartSize]) -> str:
    cells = " | ".join(
        f"{sum(part.size_bytes(quantize) for part in counted) / 1e9:.2f} GB"
        for quantize in ("none", "nf4", "nf4-all")
    )
    return f"| {name} | {parameters / 1e6:,.0f} M | {cells} |"


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="a checkpoint; Idefics2-8B if left out")
    folder = parser.parse_args().folder
    print(table(AutoConfig.from_pretrained(folder, **LOCAL) if folder else idefics2_8b()))  # noqa: T201


if __name__ == "__main__":
    main()
