"""The schema's version: bring a database up to date, or say whether it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from db.database import Database

#: Any number will do, so long as nothing else in the database uses it.
_LOCK = 7_261_015


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    alembic.attributes["connection"] = connection
    return alembic


def migrate(database: Database) -> None:
    """Run the migrations that are missing. Safe to repeat, and at two places at once."""
    with database.transaction() as transaction:
        if not database.is_sqlite:  # SQLite's writer is alone anyway
            transaction.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        command.upgrade(config(transaction), "head")


def is_current(transaction: Connection) -> bool:
    """Whether the database has exactly the schema that this code expects."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    return MigrationContext.configure(transaction).get_current_revision() == head
