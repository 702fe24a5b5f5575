"""Verdicts are kept and written many at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from db import verdicts
from db.database import Database
from db.states import Stage
from db.verdicts import OK, Verdict
from tests.db import builders
from tests.workers import parts
from workers.intake.findings import Findings
from workers.session import Session

GOOD = Verdict(OK, None, "PNG", 8, 6)


@pytest.fixture
def session(database: Database, tmp_path: Path) -> Iterator[Session]:
    made = parts.session(database, tmp_path, Stage.INTAKE)
    yield made
    made.stop()


def stored(database: Database, count: int) -> tuple[int, list[str]]:
    """An owner's images, not checked yet."""
    owner_id, digests = builders.owner(database), [f"{number:064x}" for number in range(count)]
    with database.transaction() as transaction:
        verdicts.add(transaction, owner_id, dict.fromkeys(digests, 100))
    return owner_id, digests


def test_many_verdicts_are_written_in_one_transaction(database: Database, session: Session) -> None:
    owner_id, digests = stored(database, 50)
    findings = Findings(database)
    commits: list[object] = []
    for digest in digests:
        findings.note((owner_id, digest), GOOD)

    event.listen(database.engine, "commit", commits.append)
    findings.write(session, session.id)
    findings.write(session, session.id)  # nothing is left

    assert len(commits) == 1
    with database.snapshot() as transaction:
        assert verdicts.get(transaction, owner_id, digests) == dict.fromkeys(digests, GOOD)


def test_the_first_verdict_on_an_image_stays(database: Database, session: Session) -> None:
    owner_id, [digest] = stored(database, 1)
    findings = Findings(database)
    for verdict in (GOOD, Verdict("image_truncated", "it ends too early")):
        findings.note((owner_id, digest), verdict)
        findings.write(session, session.id)

    with database.snapshot() as transaction:
        assert verdicts.get(transaction, owner_id, [digest]) == {digest: GOOD}


def test_a_verdict_on_an_image_that_was_deleted_meanwhile_brings_it_not_back(
    database: Database, session: Session
) -> None:
    owner_id, [digest] = stored(database, 1)
    findings = Findings(database)
    findings.note((owner_id, digest), GOOD)

    with database.transaction() as transaction:
        verdicts.forget(transaction, owner_id, digest)
    findings.write(session, session.id)

    assert findings.get((owner_id, digest)) is None
    with database.snapshot() as transaction:
        assert verdicts.stored(transaction, owner_id, [digest]) == set()


def test_words_of_a_decoder_that_cannot_be_stored_are_made_storable(
    database: Database, session: Session
) -> None:
    owner_id, [digest] = stored(database, 1)
    findings = Findings(database)
    findings.note((owner_id, digest), Verdict("image_broken", "a \0 in it" + "!" * 1000))

    findings.write(session, session.id)

    with database.snapshot() as transaction:
        found = verdicts.get(transaction, owner_id, [digest])[digest].message or ""
    assert found.startswith("a \ufffd in it!")
    assert len(found) == 500


def test_a_verdict_that_the_record_refuses_does_not_stand_in_the_way_of_others(
    database: Database, session: Session
) -> None:
    owner_id, [refused, digest] = stored(database, 2)
    findings = Findings(database)
    findings.note((owner_id, refused), Verdict(OK))  # without a size

    with pytest.raises(Exception, match="ok_is_measured"):
        findings.write(session, session.id)
    findings.note((owner_id, digest), GOOD)
    findings.write(session, session.id)

    with database.snapshot() as transaction:
        assert verdicts.get(transaction, owner_id, [refused, digest]) == {digest: GOOD}
