"""The text looks at pictures from outside, in layers between its own: IDEFICS, the first."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.decoding.attention import attending
from workers.decoding.cache import SlotCache
from workers.decoding.prompt import Prompt
from workers.decoding.readers import GIVEN, Reader, Rest, say_to

_ON_CPU = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


class Crossed(Reader):
    """The text looks at its pictures in layers of their own.

    The library would compute their keys and values again with each token; here they are computed
    when the prompt is read, and kept with the slot. A step hands the layer a stand-in of one row
    for each picture, whose keys and values nobody looks at.

    Args:
        model: IDEFICS of the library.
        most_pictures: In a prompt; memory is taken for so many.
    """

    def __init__(self, model: Any, most_pictures: int) -> None:
        self._model, config = model.model, model.config
        self._resampled = config.use_resampler
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.size = config.hidden_size // config.num_attention_heads
        self.most_pictures = most_pictures
        vision = config.vision_config
        self._width = vision.embed_dim
        #: Rows that a picture has: those of the resampler, or all patches and one for the whole.
        self._rows = (
            config.perceiver_config.resampler_n_latents
            if config.use_resampler
            else (vision.image_size // vision.patch_size) ** 2 + 1
        )
        self._crossings = len(self._model.gated_cross_attn_layers)
        weight = self._model.embed_tokens.weight
        self._dtype, self._device = weight.dtype, weight.device
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._looks = torch.empty(0)

    def make_room(self, slots: int) -> None:
        """See Reader.make_room."""
        shape = (slots, self.heads, self.most_pictures * self._rows, self.size)
        options = {"dtype": self._dtype, "device": self._device}
        self._kept = [
            (torch.zeros(shape, **options), torch.zeros(shape, **options))
            for _ in range(self._crossings)
        ]
        self._looks = torch.zeros(slots, self.most_pictures, dtype=torch.bool, device=self._device)

    def first_unread(self, prompt: Prompt, start: int) -> int:
        """See Reader.first_unread; a slot's keys and values are those of all its pictures."""
        return 0

    def slot_bytes(self) -> int:
        """See Reader.slot_bytes."""
        numbers = self.heads * self.most_pictures * self._rows * self.size
        return int(2 * self._crossings * numbers * self._dtype.itemsize)

    def clear(self, slot: int) -> None:
        """See Reader.clear."""
        for kept in self._kept:
            kept[0][slot].zero_(), kept[1][slot].zero_()

    def move(self, slot: int, to: int) -> None:
        """See Reader.move."""
        for keys, values in self._kept:
            keys[to], values[to] = keys[slot], values[slot]
        self._looks[to] = self._looks[slot]

    def read(
        self, rest: Rest, features: Sequence[Sequence[torch.Tensor]], cache: SlotCache
    ) -> torch.Tensor:
        """See Reader.read."""
        rows = rest.rows()
        counts = [len(own) for own in features]
        looks = torch.zeros(len(rest.ids), max(sum(counts), 1), dtype=torch.bool)
        token = picture = 0
        for prompt, start, slot, length, count in zip(
            rest.prompts, rest.starts, rest.numbers, rest.lengths, counts, strict=True
        ):
            self._looks[slot] = False
            if prompt.looks is not None and count:
                looks[token : token + length, picture : picture + count] = prompt.looks[start:]
                self._looks[slot, :count] = prompt.looks[-1].to(self._device)
            token, picture = token + length, picture + count
        shown = [feature for own in features for feature in own] or [
            torch.zeros(self._rows, self._width, dtype=self._dtype, device=self._device)
        ]
        looks = looks.to(self._device)
        seen = looks.repeat_interleave(self._rows, 1)

        def attend(
            module: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            scale: float | None,
        ) -> torch.Tensor:
            if not module.is_cross_attention:
                return rows.attend(query, key, value, scale)
            self._keep(module.layer_idx, rest.numbers, counts, key, value)
            return self._look(query, key, value, seen, scale, (rest.lengths, counts))

        rest.tell(cache)
        with attending(attend):
            return self._run(rest.ids[None], rest.positions[None], GIVEN, cache, shown, looks)[0]

    def say(
        self, tokens: torch.Tensor, positions: torch.Tensor, seen: int, cache: SlotCache
    ) -> torch.Tensor:
        """See Reader.say."""
        mask, count = say_to(positions, seen, cache), len(positions)
        looks = self._looks[:count]
        own = looks.repeat_interleave(self._rows, 1)[:, None, None]

        def attend(
            module: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            scale: float | None,
        ) -> torch.Tensor:
            shown = mask
            if module.is_cross_attention:
                key, value = (kept[:count] for kept in self._kept[module.layer_idx])
                shown = own
            out = scaled_dot_product_attention(query, key, value, attn_mask=shown, scale=scale)
            return out.transpose(1, 2)

        stand_in = torch.zeros(
            count, self.most_pictures, 1, self._width, dtype=self._dtype, device=self._device
        )
        with attending(attend):
            return self._run(
                tokens[:, None], positions[:, None], mask, cache, stand_in, looks[:, None]
            )[:, 0]

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: SlotCache,
        shown: Sequence[torch.Tensor] | torch.Tensor,
        looks: torch.Tensor,
    ) -> torch.Tensor:
        pictures = shown if isinstance(shown, torch.Tensor) else torch.stack(list(shown))[None]
        name = "perceiver_embeddings" if self._resampled else "image_encoder_embeddings"
        hidden: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            image_attention_mask=(looks if looks.dim() == 3 else looks[None]).long(),
            use_cache=True,
            **{name: pictures},
        ).last_hidden_state
        return hidden

    def _keep(
        self,
        layer: int,
        slots: Sequence[int],
        counts: Sequence[int],
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> None:
        keys, values = self._kept[layer]
        begin = 0
        for slot, count in zip(slots, counts, strict=True):
            end = begin + count * self._rows
            keys[slot, :, : end - begin] = key[0, :, begin:end]
            values[slot, :, : end - begin] = value[0, :, begin:end]
            begin = end

    def _look(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        seen: torch.Tensor,
        scale: float | None,
        lying: tuple[Sequence[int], Sequence[int]],
    ) -> torch.Tensor:
        """Each prompt at its own pictures; what looks at none is zeroed by the library."""
        outs = []
        token = row = 0
        for length, count in zip(*lying, strict=True):
            end, last = token + length, row + count * self._rows
            if count:
                # What cuDNN has for this is planned anew for each length, which takes long.
                with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, *_ON_CPU]):
                    own = scaled_dot_product_attention(
                        query[:, :, token:end],
                        key[:, :, row:last],
                        value[:, :, row:last],
                        attn_mask=seen[None, None, token:end, row:last],
                        scale=scale,
                    )
            else:
                own = torch.zeros_like(query[:, :, token:end])
            outs.append(own)
            token, row = end, last
        return torch.cat(outs, 2).transpose(1, 2)
