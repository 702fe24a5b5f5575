"""Items to batches."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.batching import plan


@dataclass(frozen=True)
class Item:
    number: int
    options: str
    tokens: int


def batches(items: list[Item], most: int) -> list[list[Item]]:
    return list(
        plan(items, like=lambda i: (0, i.options), tokens=lambda i: i.tokens, max_items=most)
    )


ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=40).map(
    lambda rows: [Item(n, options, tokens) for n, (options, tokens) in enumerate(rows)]
)


@given(items=ITEMS, most=st.integers(1, 10))
def test_every_item_travels_once_with_its_like_and_never_too_many_together(
    items: list[Item], most: int
) -> None:
    cut = batches(items, most)

    assert sorted(i.number for batch in cut for i in batch) == [i.number for i in items]
    assert all(1 <= len(batch) <= most for batch in cut)
    assert all(len({i.options for i in batch}) == 1 for batch in cut)


def test_the_longest_come_first_so_that_neighbours_pad_little() -> None:
    items = [Item(n, "a", tokens) for n, tokens in enumerate([3, 9, 4, 8])]

    assert [[i.tokens for i in batch] for batch in batches(items, 2)] == [[9, 8], [4, 3]]
