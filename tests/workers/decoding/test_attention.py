"""Attention of a decode step without copies of keys and values."""

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
