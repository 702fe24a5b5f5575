"""Answers are provably those of transformers: see exact.py."""

from collections.abc import Callable

import pytest

from tests.workers.families import exact, tiny
from workers.families.pinned import Pinned


@pytest.mark.parametrize("kind", exact.CASES)
@pytest.mark.parametrize("name", tiny.CHECKPOINTS)
def test_every_answer_equals_that_of_transformers_alone_and_in_any_batch(
    name: str,
    kind: str,
    pinned: Callable[[str], Pinned],
    reference: Callable[[str], exact.Reference],
) -> None:
    family = pinned(name)
    if not exact.cases_for(family, kind):
        assert kind == "chat"
        assert "chat" not in family.card.kinds
        return

    row = exact.compare(family, reference(name), name, kind)

    assert row is not None
    assert row.cases >= 2
    assert (row.single, row.batch) == (row.cases, row.batched)
