"""Attention over packed sequences: different lengths end to end, without padding.

    ├── one ──┼─ two ─┼───── three ─────┤     one row; each attends to itself alone

transformers looks the attention function up in a table, so its layers are used unchanged: `install`
registers a function that behaves as sdpa until an `override_attention` block replaces it. On a GPU,
but not in float32, packed sequences are one kernel call (FlashAttention's variable lengths; Dao
2023). Otherwise they are one call each, or one for all if their lengths are equal.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "idefiq"
#: Arguments of attention that change its result and that no kernel here takes.
OF_OTHERS = ("softcap", "s_aux", "position_bias")


class PackedSequences:
    """Lengths of the sequences that are packed in one row.

    Args:
        queries: Query tokens of each sequence.
        keys: Key tokens of each sequence, of which the queries are the last; by default as many.
        causal: True if a token attends only to itself and those before it.
        blocks: If tokens of a block, such as an image, attend to each other in both directions: of
            each sequence, int64 (key tokens,), the number of a token's block, -1 outside of blocks.
    """

    def __init__(
        self,
        queries: Sequence[int],
        keys: Sequence[int] | None = None,
        *,
        causal: bool = False,
        blocks: Sequence[torch.Tensor] | None = None,
    ) -> None:
        self.queries, self.causal, self._blocks = list(queries), causal, blocks
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self.keys = list(keys) if keys is not None else self.queries
        self._on_device: list[torch.Tensor] = []

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None = None,
    ) -> torch.Tensor:
        """Compute attention within each sequence.

        Args:
            query: (1, heads, query tokens, head size).
            key: (1, kv heads, key tokens, head size), as value.
            window: Most tokens before and with itself that a token attends to (Beltagy et al.
                2020, "Longformer"); None for all. Only if the sequences are causal.

        Returns:
            (1, query tokens, heads, head size).
        """
        is_equal = len({*self.queries}) == 1 and len({*self.keys}) == 1
        if self._blocks is None:
            if query.is_cuda and query.dtype != torch.float32:  # the kernel has no float32
                return self._varlen_kernel(query, key, value, scale, window)
            if is_equal:
                parts = [self._stacked(x, len(self.queries)) for x in (query, key, value)]
                out = self._one(*parts, scale=scale, mask=self._mask(0, window, query.device))
                return out.transpose(1, 2).reshape(1, query.shape[2], query.shape[1], -1)
        outs = [
            self._one(q, k, v, scale=scale, mask=self._mask(number, window, query.device))
            for number, (q, k, v) in enumerate(
                zip(
                    query.split(self.queries, 2),
                    key.split(self.keys, 2),
                    value.split(self.keys, 2),
                    strict=True,
                )
            )
        ]
        return torch.cat(outs, 2).transpose(1, 2)

    def _one(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scale: float | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        groups = q.shape[1] // k.shape[1]
        if groups > 1 and mask is not None and q.is_cuda:
            # With a mask and grouped heads torch has no fused kernel on a GPU.
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=self.causal and mask is None and q.shape[2] > 1,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    def _mask(self, number: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """What a sequence's queries attend to, bool (queries, keys); None if that needs no mask."""
        queries, keys = self.queries[number], self.keys[number]
        if not self.causal or (
            queries == keys and self._blocks is None and (window is None or window >= keys)
        ):
            return None
        if (number, window) not in self._masks:
            key = torch.arange(keys, device=device)[None]
            query = key.T[keys - queries :]
            mask = key <= query
            if self._blocks is not None:
                block = self._blocks[number].to(device)
                mask |= (block[None] >= 0) & (block[None] == block[keys - queries :, None])
            if window is not None:
                mask &= key > query - window
            self._masks[number, window] = mask
        return self._masks[number, window]

    @staticmethod
    def _stacked(row: torch.Tensor, count: int) -> torch.Tensor:
        """Reshape (1, heads, count * tokens, size) to (count, heads, tokens, size)."""
        _, heads, tokens, size = row.shape
        return row.view(heads, count, tokens // count, size).transpose(0, 1)

    def _varlen_kernel(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(
            *(x[0].transpose(0, 1).contiguous() for x in (query, key, value)),
            *self._cumulative_lengths(query.device),
            max(self.queries),
            max(self.keys),
            scale=scale,
            window_size=(window - 1 if window else -1, 0) if self.causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
            num_splits=1,  # with more, an answer would depend on its neighbours
        )
        assert isinstance(out, torch.Tensor)
        return out[None]

    def _cumulative_lengths(self, device: torch.device) -> list[torch.Tensor]:
        """Offsets at which sequences begin and end; the same for all layers."""
        if not self._on_device:
            self._on_device = [
                torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
                for lengths in (self.queries, self.keys)
            ]
        return self._on_device


#: Replaces transformers' attention: (module, query, key, value, scale, window) → output.
AttentionFunction = Callable[
    [Any, torch.Tensor, torch.Tensor, torch.Tensor, float | None, int | None], torch.Tensor
]
_attend: ContextVar[AttentionFunction | None] = ContextVar("attend", default=None)


@contextmanager
def override_attention(attend: AttentionFunction) -> Iterator[None]:
    """Compute all attention of the model with `attend` inside the block."""
    before = _attend.set(attend)
    try:
        yield
    finally:
        _attend.reset(before)


@contextmanager
def packed_attention(rows: PackedSequences) -> Iterator[None]:
    """Make every packed sequence attend to itself alone inside the block."""

    def attend(
        _: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        return rows.attend(query, key, value, scale, window)

    with override_attention(attend):
        yield


@contextmanager
def decode_attention(mask: torch.Tensor) -> Iterator[None]:
    """Attend with one query token a sequence inside the block, without copying keys or values.

    In grouped-query attention (Ainslie et al. 2023) several query heads share keys and values.
    Older versions of transformers repeat those for every head, which moves several times the KV
    cache in each step. Newer ones (5.23 does) make the queries of a group rows of one product, as
    this does whatever the version. A layer with a sliding window attends to the last positions.

    Args:
        mask: Positions that each sequence attends to, bool (sequences, 1, 1, visible).
    """
    of_windows: dict[int | None, torch.Tensor] = {None: mask}

    def attend(
        _: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        if window not in of_windows:
            # Of n positions that a sequence attends to, the last `window`.
            left = mask.sum(-1, keepdim=True) - mask.cumsum(-1)
            of_windows[window] = mask & (left < window)
        sequences, heads, _one, size = query.shape
        grouped = query.reshape(sequences, key.shape[1], -1, size)
        allowed = of_windows[window]
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=allowed, scale=scale)
        return out.reshape(sequences, heads, 1, -1).transpose(1, 2)

    with override_attention(attend):
        yield


def install(model: Any) -> None:
    """Make a model that uses transformers' `sdpa` attention follow `override_attention`."""
    AttentionInterface.register(NAME, sdpa_unless_overridden)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def sdpa_unless_overridden(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Behave as sdpa of transformers, or as the innermost `override_attention` block says."""
    if attend := _attend.get():
        if changed := [name for name in OF_OTHERS if others.get(name) is not None]:
            raise ValueError(f"its attention has {', '.join(changed)}")
        return attend(module, query, key, value, scaling, others.get("sliding_window")), None
    output: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **others
    )
    return output


def _mask(*arguments: Any, **named: Any) -> torch.Tensor | None:
    if _attend.get():
        return None
    mask: torch.Tensor | None = sdpa_mask(*arguments, **named)
    return mask
