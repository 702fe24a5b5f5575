"""Verdicts are kept and written many at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from db.images import known_images
from db.images.known_images import OK, CheckResult
from db.sql.database import Database
from db.vocabulary.states import Stage
from tests.db import builders
from tests.workers import parts
from workers.intake.check_results import CheckResultBuffer
from workers.session import Session

GOOD = CheckResult(OK, None, "PNG", 8, 6)


@pytest.fixture
def session(database: Database, tmp_path: Path) -> Iterator[Session]:
    made = parts.session(database, tmp_path, Stage.INTAKE)
    yield made
    made.stop()


def stored(database: Database, count: int) -> tuple[int, list[str]]:
    """An owner's images, not checked yet."""
    owner_id, digests = builders.owner(database), [f"{number:064x}" for number in range(count)]
    with database.transaction() as transaction:
        known_images.add(transaction, owner_id, dict.fromkeys(digests, 100))
    return owner_id, digests


def test_many_check_results_are_written_in_one_transaction(
    database: Database, session: Session
) -> None:
    owner_id, digests = stored(database, 50)
    check_results = CheckResultBuffer(database, session)
    commits: list[object] = []
    for digest in digests:
        check_results.add((owner_id, digest), GOOD)

    event.listen(database.engine, "commit", commits.append)
    check_results.write()
    check_results.write()  # nothing is left

    assert len(commits) == 1
    with database.snapshot() as transaction:
        assert known_images.get(transaction, owner_id, digests) == dict.fromkeys(digests, GOOD)


def test_the_first_check_result_of_an_image_stays(database: Database, session: Session) -> None:
    owner_id, [digest] = stored(database, 1)
    check_results = CheckResultBuffer(database, session)
    for check_result in (GOOD, CheckResult("image_truncated", "it ends too early")):
        check_results.add((owner_id, digest), check_result)
        check_results.write()

    with database.snapshot() as transaction:
        assert known_images.get(transaction, owner_id, [digest]) == {digest: GOOD}


def test_a_check_result_does_not_restore_a_deleted_image(
    database: Database, session: Session
) -> None:
    owner_id, [digest] = stored(database, 1)
    check_results = CheckResultBuffer(database, session)
    check_results.add((owner_id, digest), GOOD)

    with database.transaction() as transaction:
        known_images.remove(transaction, owner_id, digest)
    check_results.write()

    assert check_results.get((owner_id, digest)) is None
    with database.snapshot() as transaction:
        assert known_images.stored(transaction, owner_id, [digest]) == set()


def test_words_of_a_decoder_that_cannot_be_stored_are_made_storable(
    database: Database, session: Session
) -> None:
    owner_id, [digest] = stored(database, 1)
    check_results = CheckResultBuffer(database, session)
    check_results.add((owner_id, digest), CheckResult("image_broken", "a \0 in it" + "!" * 1000))

    check_results.write()

    with database.snapshot() as transaction:
        found = known_images.get(transaction, owner_id, [digest])[digest].message or ""
    assert found.startswith("a \ufffd in it!")
    assert len(found) == 500


def test_a_check_result_that_the_database_rejects_blocks_no_other(
    database: Database, session: Session
) -> None:
    owner_id, [refused, digest] = stored(database, 2)
    check_results = CheckResultBuffer(database, session)
    check_results.add((owner_id, refused), CheckResult(OK))  # without a size

    with pytest.raises(Exception, match="ok_is_measured"):
        check_results.write()
    check_results.add((owner_id, digest), GOOD)
    check_results.write()

    with database.snapshot() as transaction:
        assert known_images.get(transaction, owner_id, [refused, digest]) == {digest: GOOD}
