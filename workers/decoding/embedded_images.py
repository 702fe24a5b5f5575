"""The text decoder of models whose images become tokens in the text: Idefics2, Idefics3."""

from collections.abc import Sequence
from typing import Any

import torch

from workers.decoding.attention import decode_attention, packed_attention
from workers.decoding.kv_cache import KVCache
from workers.decoding.prompt import EncodedPrompt
from workers.decoding.text_decoder import (
    MASK_GIVEN,
    PrefillBatch,
    TextDecoder,
    begin_decode_step,
)


class EmbeddedImagesDecoder(TextDecoder):
    """Text decoder that replaces image tokens by image features before the first layer.

    Args:
        model: A transformers model with a `text_model` and an LM head.
        image_token: Token id that marks each place of an image feature in a prompt.
        tokens_per_image: Number of those tokens for each image.
    """

    def __init__(self, model: Any, image_token: int, tokens_per_image: int) -> None:
        self._text = model.model.text_model
        self._embed = model.get_input_embeddings()
        self._image_token, self._tokens_per_image = image_token, tokens_per_image
        config = model.config.get_text_config()
        self.layers, self.kv_heads = config.num_hidden_layers, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )

    def prefill(
        self, batch: PrefillBatch, features: Sequence[Sequence[torch.Tensor]], cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.prefill."""
        embeddings = self._embed(batch.ids)
        if given := [feature for own in features for feature in own]:
            at = (batch.ids == self._image_token)[:, None]
            embeddings = embeddings.masked_scatter(at, torch.cat(given).to(embeddings.dtype))
        batch.point(cache)
        with packed_attention(batch.packed_sequences()):
            return self._forward(embeddings[None], batch.positions[None], MASK_GIVEN, cache)[0]

    def decode_step(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: int, cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.decode_step."""
        mask = begin_decode_step(positions, visible, cache)
        with decode_attention(mask):
            embeddings = self._embed(tokens)[:, None]
            return self._forward(embeddings, positions[:, None], mask, cache)[:, 0]

    def _forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: KVCache,
    ) -> torch.Tensor:
        hidden: torch.Tensor = self._text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def first_image_needed(self, prompt: EncodedPrompt, start: int) -> int:
        """See TextDecoder.first_image_needed."""
        cached = int((prompt.ids[:start] == self._image_token).sum())
        return cached // self._tokens_per_image
