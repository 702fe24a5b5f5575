"""Answers are provably those of transformers: see exact.py."""

from collections.abc import Callable

import pytest

from tests.workers.families import cases, exact, report, tiny
from tests.workers.families.reference import Reference
from workers.families.family import TransformersFamily

Compare = Callable[[str, str], exact.Comparison | str]


@pytest.fixture(scope="module")
def compared(
    loaded_family: Callable[[str], TransformersFamily], reference: Callable[[str], Reference]
) -> Compare:
    """How a kind went on a checkpoint, compared once."""
    rows: dict[tuple[str, str], exact.Comparison | str] = {}

    def compare(name: str, kind: str) -> exact.Comparison | str:
        if (name, kind) not in rows:
            family = loaded_family(name)
            rows[name, kind] = exact.compare(family, reference(name), kind) or report.refusal(
                family.card, kind
            )
        return rows[name, kind]

    return compare


@pytest.mark.parametrize("kind", cases.CASES)
@pytest.mark.parametrize("name", tiny.CHECKPOINTS)
def test_every_answer_equals_that_of_transformers_alone_and_in_any_batch(
    name: str, kind: str, compared: Compare
) -> None:
    row = compared(name, kind)

    if isinstance(row, str):
        assert kind == "chat"
        assert f"model {name!r} does not support kind 'chat'; it supports caption" in row
        return
    assert row.cases >= 1
    assert (row.single, row.batch, row.slots) == (row.cases, row.batched, row.slotted)
    assert bool(row.slotted) == (row.serving.path == "slots" and kind != "rank"), row.serving.why


def test_the_page_of_models_lists_what_was_compared(compared: Compare) -> None:
    rows = {name: [compared(name, kind) for kind in cases.CASES] for name in tiny.CHECKPOINTS}

    assert report.written() == report.render(rows), "renew it with make test-families"
