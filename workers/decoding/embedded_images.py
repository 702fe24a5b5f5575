"""The text decoder of models whose images become tokens in the text: Idefics2, Qwen-VL, LLaVA."""

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

    Features may be several times as wide as the text model. Then the first part replaces the
    tokens, and each of the others is added after a layer (Meng et al. 2024, "DeepStack").

    Args:
        model: A transformers model with an LM head, and with a text model inside.
        image_token: Token id that marks each place of an image feature in a prompt.
        tokens_per_image: Number of those tokens for each image; 0 if images come all together.
    """

    def __init__(self, model: Any, image_token: int, tokens_per_image: int = 0) -> None:
        inside = model.model
        self._text = inside.text_model if hasattr(inside, "text_model") else inside.language_model
        self._embed = model.get_input_embeddings()
        self._image_token, self._tokens_per_image = image_token, tokens_per_image
        #: Axes of rotary embeddings (text, or time, height and width); 0 for plain positions.
        self._axes = 3 if hasattr(inside, "get_rope_index") else 0
        config = model.config.get_text_config()
        self.layers = config.num_hidden_layers
        self.kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self._width = config.hidden_size
        #: Of each slot, what is to be added to a token's index for its position.
        self._offsets = torch.empty(0, dtype=torch.long)

    def allocate(self, slots: int) -> None:
        """See TextDecoder.allocate."""
        self._offsets = torch.zeros(slots, dtype=torch.long, device=self._embed.weight.device)

    def move_slot(self, slot: int, to: int) -> None:
        """See TextDecoder.move_slot."""
        self._offsets[to] = self._offsets[slot]

    def prefill(
        self, batch: PrefillBatch, features: Sequence[Sequence[torch.Tensor]], cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.prefill."""
        at = batch.ids == self._image_token
        # The image token may lie outside the vocabulary.
        embeddings = self._embed(batch.ids.masked_fill(at, 0))
        deepstack: dict[str, Any] = {}
        if given := [feature for own in features for feature in own]:
            rows = torch.cat(given).to(embeddings.dtype)
            first, *others = rows.split(self._width, 1)
            embeddings = embeddings.masked_scatter(at[:, None], first)
            if others:
                deepstack = {"visual_pos_masks": at[None], "deepstack_visual_embeds": others}
        positions = batch.positions[None]
        if self._axes:
            positions = batch.positions_of_axes(self._axes)[:, None]
            self._offsets[torch.tensor(batch.slots)] = self._offsets.new_tensor(
                [one.layout.next_position(len(one.ids)) - len(one.ids) for one in batch.prompts]
            )
        batch.point(cache)
        with packed_attention(batch.packed_sequences()):
            return self._forward(embeddings[None], positions, MASK_GIVEN, cache, **deepstack)[0]

    def decode_step(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: int, cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.decode_step."""
        mask = begin_decode_step(positions, visible, cache)
        at = positions[:, None]
        if self._axes:
            at = (at + self._offsets[: len(positions), None]).expand(self._axes, -1, -1)
        with decode_attention(mask):
            embeddings = self._embed(tokens)[:, None]
            return self._forward(embeddings, at, mask, cache)[:, 0]

    def _forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: KVCache,
        **more: Any,
    ) -> torch.Tensor:
        hidden: torch.Tensor = self._text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **more,
        ).last_hidden_state
        return hidden

    def first_image_needed(self, prompt: EncodedPrompt, start: int) -> int:
        """See TextDecoder.first_image_needed."""
        if not self._tokens_per_image:
            return 0  # images that come all together are in no prefix
        cached = int((prompt.ids[:start] == self._image_token).sum())
        return cached // self._tokens_per_image
