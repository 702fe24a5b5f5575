"""The text decoder of IDEFICS: layers between those of the text attend to images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from workers.decoding.attention import override_attention
from workers.decoding.kv_cache import KVCache
from workers.decoding.prompt import EncodedPrompt
from workers.decoding.text_decoder import MASK_GIVEN, PrefillBatch, TextDecoder, begin_decode_step

_CPU_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


class CrossAttentionDecoder(TextDecoder):
    """Text decoder whose cross-attention layers attend to image features.

    transformers would compute the keys and values of the images again for every token. Here they
    are computed in the prefill and stored for the slot. A decode step passes the layers a
    placeholder of one row for each image, whose keys and values are not used.

    Args:
        model: A transformers IDEFICS.
        max_images: Most images in a prompt; memory is allocated for so many.
    """

    def __init__(self, model: Any, max_images: int) -> None:
        self._model, config = model.model, model.config
        self._resampled = config.use_resampler
        self.layers, self.kv_heads = config.num_hidden_layers, config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.max_images = max_images
        vision = config.vision_config
        self._width = vision.embed_dim
        #: Feature rows of an image: those of the resampler, or all patches and the class token.
        self._rows_per_image = (
            config.perceiver_config.resampler_n_latents
            if config.use_resampler
            else (vision.image_size // vision.patch_size) ** 2 + 1
        )
        self._cross_layers = len(self._model.gated_cross_attn_layers)
        weight = self._model.embed_tokens.weight
        self._dtype, self._device = weight.dtype, weight.device
        self._cross_kv: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._image_mask = torch.empty(0)

    def allocate(self, slots: int) -> None:
        """See TextDecoder.allocate."""
        shape = (slots, self.kv_heads, self.max_images * self._rows_per_image, self.head_size)
        options = {"dtype": self._dtype, "device": self._device}
        self._cross_kv = [
            (torch.zeros(shape, **options), torch.zeros(shape, **options))
            for _ in range(self._cross_layers)
        ]
        self._image_mask = torch.zeros(
            slots, self.max_images, dtype=torch.bool, device=self._device
        )

    def first_image_needed(self, prompt: EncodedPrompt, start: int) -> int:
        """See TextDecoder.first_image_needed; cross-attention needs all images of a prompt."""
        return 0

    def slot_bytes(self) -> int:
        """See TextDecoder.slot_bytes."""
        size = self.kv_heads * self.max_images * self._rows_per_image * self.head_size
        return int(2 * self._cross_layers * size * self._dtype.itemsize)

    def clear_slot(self, slot: int) -> None:
        """See TextDecoder.clear_slot."""
        for keys, values in self._cross_kv:
            keys[slot].zero_(), values[slot].zero_()

    def move_slot(self, slot: int, to: int) -> None:
        """See TextDecoder.move_slot."""
        for keys, values in self._cross_kv:
            keys[to], values[to] = keys[slot], values[slot]
        self._image_mask[to] = self._image_mask[slot]

    def prefill(
        self, batch: PrefillBatch, features: Sequence[Sequence[torch.Tensor]], cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.prefill."""
        packed = batch.packed_sequences()
        counts = [len(own) for own in features]
        image_mask = torch.zeros(len(batch.ids), max(sum(counts), 1), dtype=torch.bool)
        token = image = 0
        for prompt, start, slot, length, count in zip(
            batch.prompts, batch.starts, batch.slots, batch.lengths, counts, strict=True
        ):
            self._image_mask[slot] = False
            if prompt.image_mask is not None and count:
                image_mask[token : token + length, image : image + count] = prompt.image_mask[
                    start:
                ]
                self._image_mask[slot, :count] = prompt.image_mask[-1].to(self._device)
            token, image = token + length, image + count
        features_row = [feature for own in features for feature in own] or [
            torch.zeros(self._rows_per_image, self._width, dtype=self._dtype, device=self._device)
        ]
        image_mask = image_mask.to(self._device)
        token_mask = image_mask.repeat_interleave(self._rows_per_image, 1)

        def attend(
            module: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            scale: float | None,
            window: int | None,
        ) -> torch.Tensor:
            if not module.is_cross_attention:
                return packed.attend(query, key, value, scale)
            self._store(module.layer_idx, batch.slots, counts, key, value)
            return self._attend_images(
                query, key, value, token_mask, scale, (batch.lengths, counts)
            )

        batch.point(cache)
        with override_attention(attend):
            return self._forward(
                batch.ids[None], batch.positions[None], MASK_GIVEN, cache, features_row, image_mask
            )[0]

    def decode_step(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: int, cache: KVCache
    ) -> torch.Tensor:
        """See TextDecoder.decode_step."""
        mask, count = begin_decode_step(positions, visible, cache), len(positions)
        image_mask = self._image_mask[:count]
        own_rows = image_mask.repeat_interleave(self._rows_per_image, 1)[:, None, None]

        def attend(
            module: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            scale: float | None,
            window: int | None,
        ) -> torch.Tensor:
            allowed = mask
            if module.is_cross_attention:
                key, value = (stored[:count] for stored in self._cross_kv[module.layer_idx])
                allowed = own_rows
            out = scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale)
            return out.transpose(1, 2)

        placeholder = torch.zeros(
            count, self.max_images, 1, self._width, dtype=self._dtype, device=self._device
        )
        with override_attention(attend):
            return self._forward(
                tokens[:, None], positions[:, None], mask, cache, placeholder, image_mask[:, None]
            )[:, 0]

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: KVCache,
        features: Sequence[torch.Tensor] | torch.Tensor,
        image_mask: torch.Tensor,
    ) -> torch.Tensor:
        stacked = (
            features if isinstance(features, torch.Tensor) else torch.stack(list(features))[None]
        )
        name = "perceiver_embeddings" if self._resampled else "image_encoder_embeddings"
        hidden: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            image_attention_mask=(image_mask if image_mask.dim() == 3 else image_mask[None]).long(),
            use_cache=True,
            **{name: stacked},
        ).last_hidden_state
        return hidden

    def _store(
        self,
        layer: int,
        slots: Sequence[int],
        counts: Sequence[int],
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> None:
        keys, values = self._cross_kv[layer]
        begin = 0
        for slot, count in zip(slots, counts, strict=True):
            end = begin + count * self._rows_per_image
            keys[slot, :, : end - begin] = key[0, :, begin:end]
            values[slot, :, : end - begin] = value[0, :, begin:end]
            begin = end

    def _attend_images(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        token_mask: torch.Tensor,
        scale: float | None,
        lengths_and_counts: tuple[Sequence[int], Sequence[int]],
    ) -> torch.Tensor:
        """Attend from each prompt to its own images; transformers zeroes tokens without any."""
        outs = []
        token = row = 0
        for length, count in zip(*lengths_and_counts, strict=True):
            end, last = token + length, row + count * self._rows_per_image
            if count:
                # Not cuDNN: it plans each new length anew, which takes long.
                with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, *_CPU_BACKENDS]):
                    own = scaled_dot_product_attention(
                        query[:, :, token:end],
                        key[:, :, row:last],
                        value[:, :, row:last],
                        attn_mask=token_mask[None, None, token:end, row:last],
                        scale=scale,
                    )
            else:
                own = torch.zeros_like(query[:, :, token:end])
            outs.append(own)
            token, row = end, last
        return torch.cat(outs, 2).transpose(1, 2)
