"""Verdicts are kept and written many at a time."""

from pathlib import Path

from sqlalchemy import event

from db import verdicts
from db.database import Database
from db.states import Stage
from db.verdicts import OK, Verdict
from tests.db import builders
from tests.workers import parts
from workers.intake.findings import Findings

GOOD = Verdict(OK, None, "PNG", 8, 6)


def digest(number: int) -> str:
    return f"{number:064x}"


def test_many_verdicts_are_written_in_one_transaction(database: Database, tmp_path: Path) -> None:
    owner_id = builders.owner(database)
    session = parts.session(database, tmp_path, Stage.INTAKE)
    findings = Findings(database)
    commits: list[object] = []
    for number in range(50):
        findings.note(owner_id, digest(number), 100 + number, GOOD)

    event.listen(database.engine, "commit", commits.append)
    findings.write(session, session.id)
    findings.write(session, session.id)  # nothing is left

    assert len(commits) == 1
    with database.snapshot() as transaction:
        found = verdicts.get(transaction, owner_id, [digest(number) for number in range(50)])
    assert found == {digest(number): GOOD for number in range(50)}
    session.stop()


def test_the_first_verdict_on_an_image_stays(database: Database, tmp_path: Path) -> None:
    owner_id = builders.owner(database)
    session = parts.session(database, tmp_path, Stage.INTAKE)
    findings = Findings(database)
    for verdict in (GOOD, Verdict("image_truncated", "it ends too early")):
        findings.note(owner_id, digest(1), 100, verdict)
        findings.write(session, session.id)

    with database.snapshot() as transaction:
        assert verdicts.get(transaction, owner_id, [digest(1)]) == {digest(1): GOOD}
    session.stop()
