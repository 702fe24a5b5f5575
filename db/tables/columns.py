"""What all tables share: the metadata, column types, and the parts that recur."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from db.sql.clock import UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite numbers rows by itself only when the key is exactly INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def at(name: str, *, nullable: bool = True, index: bool = False) -> Column[object]:
    """Column of a moment, in UTC."""
    return Column(name, UtcDateTime(), nullable=nullable, index=index)


def owner_id() -> Column[object]:
    """Column of the owner, which every row of a tenant has."""
    return Column("owner_id", BigId, ForeignKey("owners.id"), nullable=False)


def where(condition: str) -> dict[str, Any]:
    """Arguments of an index of only those rows that fulfil `condition`, on both databases."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}
