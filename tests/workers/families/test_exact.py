"""Answers are provably those of transformers: see exact.py."""

from collections.abc import Callable

import pytest

from tests.workers.families import exact, report, tiny, tiny_chat
from workers.families.pinned import Pinned

Compare = Callable[[str, str], exact.Comparison | str]


@pytest.fixture(scope="module")
def compared(
    pinned: Callable[[str], Pinned], reference: Callable[[str], exact.Reference]
) -> Compare:
    """How a kind went on a checkpoint, compared once."""
    rows: dict[tuple[str, str], exact.Comparison | str] = {}

    def compare(name: str, kind: str) -> exact.Comparison | str:
        if (name, kind) not in rows:
            family = pinned(name)
            rows[name, kind] = exact.compare(family, reference(name), name, kind) or report.refusal(
                family.card, kind
            )
        return rows[name, kind]

    return compare


@pytest.mark.parametrize("kind", exact.CASES)
@pytest.mark.parametrize("name", tiny.CHECKPOINTS)
def test_every_answer_equals_that_of_transformers_alone_and_in_any_batch(
    name: str, kind: str, compared: Compare
) -> None:
    row = compared(name, kind)

    if isinstance(row, str):
        assert kind == "chat"
        assert f"model {name!r} does not support kind 'chat'; it supports caption" in row
        return
    assert row.cases >= 2
    assert (row.single, row.batch, row.slots) == (row.cases, row.batched, row.slotted)
    assert bool(row.slotted) == (name not in tiny_chat.CHECKPOINTS and kind != "rank")


def test_the_page_of_models_lists_what_was_compared(compared: Compare) -> None:
    rows = {name: [compared(name, kind) for kind in exact.CASES] for name in tiny.CHECKPOINTS}

    assert report.written() == report.render(rows), "renew it with make test-families"
