"""The schema that the migrations make is the one that the code expects."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from db import schema
from db.database import Database
from db.tables import metadata


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.transaction() as transaction:
        differences = compare_metadata(MigrationContext.configure(transaction), metadata)

    assert differences == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    schema.migrate(database)

    with database.transaction() as transaction:
        assert schema.is_current(transaction)


def test_a_database_without_tables_is_not_current(tmp_path: object) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.db")

    with database.transaction() as transaction:
        assert not schema.is_current(transaction)
    database.dispose()


def test_every_table_of_a_tenant_names_its_owner(database: Database) -> None:
    shared = {"owners", "models", "sessions", "alembic_version"}

    found = inspect(database.engine)

    for table in set(found.get_table_names()) - shared:
        columns = {column["name"] for column in found.get_columns(table)}
        assert "owner_id" in columns, table
