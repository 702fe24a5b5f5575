"""Sequences of different lengths side by side, without padding, through the library's own layers.

    ├── one ──┼─ two ─┼───── three ─────┤     one row; each attends to itself alone

The library asks a table for the function that computes attention, so that layers need not be
written again: `install` puts one there that does as before, until a `side_by_side` block says
which sequences lie in the row. On a GPU that is one kernel for all of them (FlashAttention's
variable lengths; Dao 2023), on a CPU one call for each.
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


class Rows:
    """Which sequences lie end to end in a row.

    Args:
        queries: Length of each.
        keys: Length of what each looks at, which ends where the sequence does; the same, if left
            out.
        causal: Whether a token sees only those before it.
    """

    def __init__(
        self,
        queries: Sequence[int],
        keys: Sequence[int] | None = None,
        *,
        causal: bool = False,
    ) -> None:
        self.queries, self.causal = list(queries), causal
        self.keys = list(keys) if keys is not None else self.queries
        self._on_device: list[torch.Tensor] = []

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """Attention within each sequence.

        Args:
            query: (1, heads, tokens, size).
            key: (1, heads or fewer, seen tokens, size), as value.

        Returns:
            (1, tokens, heads, size).
        """
        if query.is_cuda and query.dtype != torch.float32:  # which the kernel does not take
            return self._in_one_kernel(query, key, value, scale)
        groups = query.shape[1] // key.shape[1]
        if len({*self.queries}) == 1 and len({*self.keys}) == 1:
            parts = [self._stacked(x, len(self.queries)) for x in (query, key, value)]
            out = self._one(*parts, scale=scale, groups=groups)
            return out.transpose(1, 2).reshape(1, query.shape[2], query.shape[1], -1)
        outs = [
            self._one(q, k, v, scale=scale, groups=groups)
            for q, k, v in zip(
                query.split(self.queries, 2),
                key.split(self.keys, 2),
                value.split(self.keys, 2),
                strict=True,
            )
        ]
        return torch.cat(outs, 2).transpose(1, 2)

    def _one(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float | None, groups: int
    ) -> torch.Tensor:
        mask, more = None, k.shape[2] - q.shape[2]
        if self.causal and more:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(more)
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=self.causal and not more and q.shape[2] > 1,
            scale=scale,
            enable_gqa=groups > 1,
        )

    @staticmethod
    def _stacked(row: torch.Tensor, count: int) -> torch.Tensor:
        """From (1, heads, count * tokens, size) to (count, heads, tokens, size)."""
        _, heads, tokens, size = row.shape
        return row.view(heads, count, tokens // count, size).transpose(0, 1)

    def _in_one_kernel(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(
            *(x[0].transpose(0, 1).contiguous() for x in (query, key, value)),
            *self._borders(query.device),
            max(self.queries),
            max(self.keys),
            scale=scale,
            window_size=(-1, 0) if self.causal else (-1, -1),
            enable_gqa=query.shape[1] != key.shape[1],
            num_splits=1,  # with more, an answer would depend on its neighbours
        )
        assert isinstance(out, torch.Tensor)
        return out[None]

    def _borders(self, device: torch.device) -> list[torch.Tensor]:
        """Where sequences begin and end; the same for all layers."""
        if not self._on_device:
            self._on_device = [
                torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
                for lengths in (self.queries, self.keys)
            ]
        return self._on_device


#: What computes attention instead of the library: (module, query, key, value, scale) → output.
Attend = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
_attend: ContextVar[Attend | None] = ContextVar("attend", default=None)


@contextmanager
def attending(attend: Attend) -> Iterator[None]:
    """Let `attend` compute all attention inside the block."""
    before = _attend.set(attend)
    try:
        yield
    finally:
        _attend.reset(before)


@contextmanager
def side_by_side(rows: Rows) -> Iterator[None]:
    """Let every sequence of the row attend to itself alone inside the block."""

    def attend(
        _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        return rows.attend(query, key, value, scale)

    with attending(attend):
        yield


@contextmanager
def decode_step(mask: torch.Tensor) -> Iterator[None]:
    """Attend with one query token a sequence inside the block, without copying keys or values.

    In grouped-query attention (Ainslie et al. 2023) several query heads share keys and values.
    Older versions of the library repeat those for every head, which for a step moves several
    times the cache; newer ones (5.23 does) make the queries of a group rows of one product, as
    this does whatever the version.

    Args:
        mask: What each sequence sees, bool (sequences, 1, 1, seen).
    """

    def attend(
        _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        sequences, heads, _one, size = query.shape
        grouped = query.reshape(sequences, key.shape[1], -1, size)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
        return out.reshape(sequences, heads, 1, -1).transpose(1, 2)

    with attending(attend):
        yield


def install(model: Any) -> None:
    """Let a model that uses the library's `sdpa` attention be told what lies in its rows."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    if attend := _attend.get():
        return attend(module, query, key, value, scaling), None
    said: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **others
    )
    return said


def _mask(*arguments: Any, **named: Any) -> torch.Tensor | None:
    if _attend.get():
        return None
    mask: torch.Tensor | None = sdpa_mask(*arguments, **named)
    return mask
