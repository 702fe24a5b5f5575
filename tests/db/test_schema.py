"""The schema that the migrations make is the one that the code expects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from db import owners
from db.images import collection
from db.sql import schema
from db.sql.database import Database
from db.tables import metadata
from tests.db import builders


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.transaction() as transaction:
        context = MigrationContext.configure(transaction, opts={"include_object": _is_compared})
        differences = compare_metadata(context, metadata)

    assert differences == []


def _is_compared(thing: Any, _: str | None, kind: str, *__: Any) -> bool:
    """All but the key from items to sessions, which SQLite keeps; see migration 0012."""
    is_kept = kind == "foreign_key_constraint" and thing.referred_table.name == "sessions"
    return not is_kept


def test_the_newest_file_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(schema.config()).get_current_head() == schema.head()


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
    shared = {"owners", "models", "sessions", "alembic_version", "audit"}

    found = inspect(database.engine)

    for table in set(found.get_table_names()) - shared:
        columns = {column["name"] for column in found.get_columns(table)}
        assert "owner_id" in columns, table


class TestAnUpdateWhileTheServiceRuns:
    """T27: what the release before has written, and goes on writing, is claimed by this one."""

    #: As that release inserts them: without a column that it does not know.
    JOB = (
        "INSERT INTO jobs (id, owner_id, model, defaults, created_at, sealed_at, total, queued)"
        " VALUES (:id, 1, 'echo', '{}', :at, :at, 1, 1)"
    )
    ITEM = (
        "INSERT INTO items"
        " (owner_id, job_id, ordinal, request, options_digest, stage, state, due_at)"
        " VALUES (1, :id, 0, '{\"images\": []}', 'd', 'generate', 'queued', :at)"
    )

    @pytest.fixture(params=["sqlite", "postgres"])
    def before(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
        """A record of the release before."""
        url = f"sqlite:///{tmp_path}/before.db"
        if request.param == "postgres":
            url = request.getfixturevalue("postgres_url")
        made = Database(url)
        with made.transaction() as transaction:
            if request.param == "postgres":
                command.downgrade(schema.config(transaction), "0003")
            else:
                command.upgrade(schema.config(transaction), "0003")
            owner = "INSERT INTO owners (id, name, created_at) VALUES (1, 'ada', :at)"
            transaction.execute(text(owner), {"at": self.at})
        yield made
        made.dispose()

    at = "2026-01-01 00:00:00.000000"

    def insert(self, database: Database, job_id: str) -> None:
        with database.transaction() as transaction:
            for statement in (self.JOB, self.ITEM):
                transaction.execute(text(statement), {"id": job_id, "at": self.at})

    def test_its_jobs_are_claimed_those_from_before_and_those_from_meanwhile(
        self, before: Database
    ) -> None:
        self.insert(before, "job_1")

        schema.migrate(before)
        self.insert(before, "job_2")
        taken = builders.claim(before, builders.session(before))
        builders.complete(before, taken)

        assert sorted(lease.job_id for lease in taken) == ["job_1", "job_2"]

    def test_its_images_are_used_from_today_and_its_keys_do_what_they_did(
        self, before: Database
    ) -> None:
        image = (
            "INSERT INTO blobs (owner_id, digest, size_bytes, created_at)"
            " VALUES (1, :digest, 1, :at)"
        )
        key = (
            "INSERT INTO api_keys (id, owner_id, secret_hash, created_at)"
            " VALUES ('0123456789ab', 1, 'x', :at)"
        )
        with before.transaction() as transaction:
            transaction.execute(text(image), {"digest": "a" * 64, "at": self.at})
            transaction.execute(text(key), {"at": self.at})

        schema.migrate(before)
        with before.transaction() as transaction:
            transaction.execute(text(image), {"digest": "b" * 64, "at": self.at})

        with before.snapshot() as transaction:
            assert collection.owners_with_unused(transaction, 86_400.0) == []
            [found] = owners.keys(transaction)
        assert found.scopes == "submit read review"
