"""Owners, keys and grants."""

from datetime import UTC, datetime, timedelta

import pytest

from db import owners
from db.sql.database import Database
from db.vocabulary.errors import NotFound, RequestError, Unauthorized


def test_an_owner_is_made_once(database: Database) -> None:
    with database.transaction() as transaction:
        first = owners.get_or_create(transaction, "ada")
        again = owners.get_or_create(transaction, "ada")

    assert first == again


@pytest.mark.parametrize("name", ["", "Ada", "a/b", "../x", "a" * 64])
def test_an_owner_name_that_could_confuse_a_path_is_refused(database: Database, name: str) -> None:
    with database.transaction() as transaction, pytest.raises(RequestError, match="owner name"):
        owners.get_or_create(transaction, name)


def test_a_key_opens_its_owner_and_is_stored_only_as_a_digest(database: Database) -> None:
    with database.transaction() as transaction:
        ada = owners.get_or_create(transaction, "ada")
        key = owners.create_key(transaction, ada)
        found = owners.authenticate(transaction, key)
        rows = transaction.exec_driver_sql("SELECT * FROM api_keys").all()

    assert found.owner == ada
    assert key.rpartition("_")[2] not in repr(rows)


def test_a_wrong_expired_or_revoked_key_opens_nothing(database: Database) -> None:
    with database.transaction() as transaction:
        ada = owners.get_or_create(transaction, "ada")
        good = owners.create_key(transaction, ada)
        past = datetime.now(UTC) - timedelta(seconds=1)
        expired = owners.create_key(transaction, ada, expires_at=past)
        revoked = owners.create_key(transaction, ada)
        owners.revoke_key(transaction, revoked.split("_")[1])

        wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
        for key in (wrong, expired, revoked, "", "idq_x", good + "\n"):
            with pytest.raises(Unauthorized):
                owners.authenticate(transaction, key)


def test_revoking_an_unknown_key_is_an_error(database: Database) -> None:
    with database.transaction() as transaction, pytest.raises(NotFound):
        owners.revoke_key(transaction, "000000000000")


def test_a_grant_covers_its_prefix_of_its_bucket_for_its_owner(database: Database) -> None:
    with database.transaction() as transaction:
        ada = owners.get_or_create(transaction, "ada")
        eve = owners.get_or_create(transaction, "eve")
        owners.grant(transaction, ada, bucket="photos", prefix="2026/")
        owners.grant(transaction, ada, bucket="photos", prefix="2026/")

        asked = [
            (ada.id, "photos", "2026/a.jpg"),
            (ada.id, "photos", "2025/a.jpg"),
            (ada.id, "other", "2026/a.jpg"),
            (eve.id, "photos", "2026/a.jpg"),
        ]
        answers = [owners.may_read(transaction, *question) for question in asked]

    assert answers == [True, False, False, False]
