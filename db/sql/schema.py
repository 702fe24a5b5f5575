"""The schema's version: migrate a database, or check its version."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from db.sql.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parents[1] / "migrations"
#: Any number will do, so long as nothing else in the database uses it.
_LOCK = 7_261_015


def migrate(database: Database) -> None:
    """Run missing migrations. Safe to repeat, and from two processes at once."""
    with database.snapshot() as transaction:
        if is_current(transaction):
            return
    from alembic import command  # most starts do without

    with database.transaction() as transaction:
        if not database.is_sqlite:  # SQLite's writer is alone anyway
            transaction.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        command.upgrade(config(transaction), "head")


def is_current(transaction: Connection) -> bool:
    """True if the database has exactly the schema that this code expects."""
    if not inspect(transaction).has_table("alembic_version"):
        return False
    return transaction.execute(text("SELECT version_num FROM alembic_version")).scalar() == head()


def check_writable(database: Database) -> None:
    """Write to the database, and change nothing.

    Raises:
        StorageError: It is unavailable, or takes no writes.
    """
    with database.transaction() as transaction:
        transaction.execute(text("UPDATE alembic_version SET version_num = version_num"))


@cache
def head() -> str:
    """Return the newest revision: each is a file that begins with its number."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("0*.py"))


def config(connection: Connection | None = None) -> "Config":
    """Build Alembic's configuration without a file."""
    from alembic.config import Config

    alembic = Config()
    alembic.set_main_option("script_location", str(MIGRATIONS))
    alembic.attributes["connection"] = connection
    return alembic
