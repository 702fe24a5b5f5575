"""From items to batches: pure, no torch, no database."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def plan(
    items: Sequence[Item],
    *,
    like: Callable[[Item], tuple[int, str]],
    tokens: Callable[[Item], int],
    max_items: int,
) -> Iterator[list[Item]]:
    """Cut items into batches that pad little and never mix options.

    Args:
        items: In any order.
        like: Items may share a batch only if this is equal; batches come in its order.
        tokens: Length of an item's prompt; a batch costs `len(batch) * longest`.
        max_items: Most items in a batch, >= 1.

    Yields:
        Non-empty batches, each item exactly once; within like items the longest first, so that
        a batch that does not fit the device fails at the start and not after an hour.
    """
    groups: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        groups.setdefault(like(item), []).append(item)
    for _, group in sorted(groups.items(), key=lambda pair: pair[0]):
        ordered = sorted(group, key=tokens, reverse=True)
        for start in range(0, len(ordered), max_items):
            yield ordered[start : start + max_items]
