"""Pictures become tokens among those of the text: Idefics2, Idefics3."""

from collections.abc import Sequence
from typing import Any

import torch

from workers.decoding.attention import decode_step, side_by_side
from workers.decoding.cache import SlotCache
from workers.decoding.prompt import Prompt
from workers.decoding.readers import GIVEN, Reader, Rest, say_to


class Merged(Reader):
    """Pictures stand among the tokens of the text.

    Args:
        model: Of the library, with a `text_model` and a last layer.
        image_token: What stands in a prompt for each token of a picture.
        picture_tokens: How many each picture has.
    """

    def __init__(self, model: Any, image_token: int, picture_tokens: int) -> None:
        self._text = model.model.text_model
        self._embed = model.get_input_embeddings()
        self._image_token, self._picture_tokens = image_token, picture_tokens
        config = model.config.get_text_config()
        self.layers, self.heads = config.num_hidden_layers, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )

    def read(
        self, rest: Rest, features: Sequence[Sequence[torch.Tensor]], cache: SlotCache
    ) -> torch.Tensor:
        """See Reader.read."""
        embeddings = self._embed(rest.ids)
        if shown := [feature for own in features for feature in own]:
            at = (rest.ids == self._image_token)[:, None]
            embeddings = embeddings.masked_scatter(at, torch.cat(shown).to(embeddings.dtype))
        rest.tell(cache)
        with side_by_side(rest.rows()):
            return self._run(embeddings[None], rest.positions[None], GIVEN, cache)[0]

    def say(
        self, tokens: torch.Tensor, positions: torch.Tensor, seen: int, cache: SlotCache
    ) -> torch.Tensor:
        """See Reader.say."""
        mask = say_to(positions, seen, cache)
        with decode_step(mask):
            return self._run(self._embed(tokens)[:, None], positions[:, None], mask, cache)[:, 0]

    def _run(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
    ) -> torch.Tensor:
        hidden: torch.Tensor = self._text(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def first_unread(self, prompt: Prompt, start: int) -> int:
        """See Reader.first_unread."""
        read = int((prompt.ids[:start] == self._image_token).sum())
        return read // self._picture_tokens
