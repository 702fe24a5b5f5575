"""Attention within packed sequences, and of a decode step without copies of keys and values."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers.decoding import attention


@pytest.mark.parametrize("heads_of_keys", [1, 2, 8])
def test_a_decode_step_over_grouped_heads_equals_that_of_the_library(heads_of_keys: int) -> None:
    source = torch.Generator().manual_seed(0)
    sequences, heads, seen, size = 5, 8, 33, 16
    query = torch.randn(sequences, heads, 1, size, generator=source)
    key, value = (
        torch.randn(sequences, heads_of_keys, seen, size, generator=source) for _ in range(2)
    )
    lengths = torch.tensor([1, 7, 20, 32, 33])
    mask = (torch.arange(seen)[None] < lengths[:, None])[:, None, None]
    module = SimpleNamespace(num_key_value_groups=heads // heads_of_keys, is_causal=False)

    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.25)
    with attention.decode_attention(mask):
        shown, _ = attention.sdpa_unless_overridden(module, query, key, value, None, scaling=0.25)

    assert torch.allclose(shown, expected, atol=1e-5)


def rows(*lengths: int, heads: int = 4, of_keys: int = 2) -> list[torch.Tensor]:
    """Query, key and value of packed sequences."""
    source = torch.Generator().manual_seed(1)
    shape = (1, heads, sum(lengths), 8)
    return [
        torch.randn(1, count, *shape[2:], generator=source) for count in (heads, of_keys, of_keys)
    ]


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor:
    """Attention of (1, heads, tokens, size) as a formula, over what is allowed."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * 0.5
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2)


@pytest.mark.parametrize("lengths", [[9, 9, 9], [3, 12, 1, 7]])
@pytest.mark.parametrize("window", [None, 1, 4, 20])
def test_tokens_of_packed_sequences_see_as_many_before_them_as_the_window_says(
    lengths: list[int], window: int | None
) -> None:
    packed = attention.PackedSequences(lengths, causal=True)
    query, key, value = rows(*lengths)

    shown = packed.attend(query, key, value, 0.5, window)

    expected = []
    packs = (part.split(lengths, 2) for part in (query, key, value))
    for q, k, v in zip(*packs, strict=True):
        at = torch.arange(q.shape[2])
        before = at[:, None] - at[None]
        allowed = (before >= 0) & (before < (window or len(at)))
        expected.append(written_out(q, k, v, allowed))
    assert torch.allclose(shown, torch.cat(expected, 1), atol=1e-5)


@pytest.mark.parametrize("window", [None, 2])
def test_tokens_of_one_image_see_each_other_in_both_directions(window: int | None) -> None:
    """A window, which counts tokens before, leaves later ones of the image to be seen."""
    blocks = torch.tensor([-1, 0, 0, 0, -1, 1, 1, -1])
    packed = attention.PackedSequences([8, 3], causal=True, blocks=[blocks, torch.full((3,), -1)])
    query, key, value = rows(8, 3)

    shown = packed.attend(query, key, value, 0.5, window)

    at = torch.arange(8)
    within = at[:, None] - at[None] < (window or 8)
    same = (blocks[:, None] == blocks[None]) & (blocks[:, None] >= 0)
    allowed = ((at[None] <= at[:, None]) | same) & within
    after = torch.arange(3)
    plain = (after[None] <= after[:, None]) & (after[:, None] - after[None] < (window or 3))
    expected = [
        written_out(query[:, :, :8], key[:, :, :8], value[:, :, :8], allowed),
        written_out(query[:, :, 8:], key[:, :, 8:], value[:, :, 8:], plain),
    ]
    assert torch.allclose(shown, torch.cat(expected, 1), atol=1e-5)


def test_a_decode_step_sees_the_last_tokens_of_its_window() -> None:
    source = torch.Generator().manual_seed(2)
    query = torch.randn(3, 4, 1, 8, generator=source)
    key, value = (torch.randn(3, 2, 12, 8, generator=source) for _ in range(2))
    lengths = torch.tensor([2, 7, 12])
    mask = (torch.arange(12)[None] < lengths[:, None])[:, None, None]
    module = SimpleNamespace(num_key_value_groups=2, is_causal=False)

    with attention.decode_attention(mask):
        shown, _ = attention.sdpa_unless_overridden(
            module, query, key, value, None, scaling=0.5, sliding_window=5
        )

    for row, length in enumerate(lengths.tolist()):
        begin = max(0, length - 5)
        one = [part[row : row + 1] for part in (query, key, value)]
        seen = written_out(
            one[0], one[1][:, :, begin:length], one[2][:, :, begin:length], torch.tensor(True)
        )
        assert torch.allclose(shown[row : row + 1], seen, atol=1e-5)
