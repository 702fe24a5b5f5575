"""Queries that show something of every owner, however much one of them has."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select


def first_of_each_owner(
    query: Select[Any], owner: ColumnElement[Any], order: ColumnElement[Any], limit: int
) -> Select[Any]:
    """Return the first rows of each owner that a query finds, in the order of all.

    Args:
        query: Finds rows; `order` is among their columns.
        owner: The column with the owner's id.
        order: What the rows of an owner are ordered by.
        limit: Most rows of an owner.
    """
    place = func.row_number().over(partition_by=owner, order_by=order).label("place")
    numbered = query.add_columns(place).subquery()
    columns = [column for column in numbered.c if column.name != "place"]
    return select(*columns).where(numbered.c.place <= limit).order_by(numbered.c[str(order.key)])
