"""Issues of a job's answers: counted in the job, which may pause itself above a share of them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, or_, select, update

from db.queue.lease import Lease
from db.sql.statement import Statement
from db.tables import items, jobs
from db.vocabulary.states import JobState
from db.webhooks import outbox
from db.webhooks.outbox import Announcement

#: Stands for all issues in a filter.
ANY = "any"
#: A job with fewer answers never pauses itself: a share of a handful says nothing.
MIN_ANSWERS_TO_PAUSE = 20

_PAUSE = Statement(
    """
    UPDATE jobs SET paused_at = {now}, pause_reason = 'issues'
    WHERE id = :job AND pause_on_issues IS NOT NULL AND paused_at IS NULL
      AND cancelled_at IS NULL AND finished_at IS NULL AND succeeded >= :least
      AND answers_with_issues > pause_on_issues * succeeded
    RETURNING id, owner_id
    """
)


def joined(codes: Iterable[str]) -> str | None:
    """Return codes as `items.issues` stores them: between spaces, or None for none."""
    listed = " ".join(codes)
    return f" {listed} " if listed else None


def has_one_of(codes: Sequence[str]) -> ColumnElement[bool]:
    """Condition: the item's answer has one of these issues; any, if ANY is among them."""
    if ANY in codes:
        return items.c.issues.is_not(None)
    return or_(*(items.c.issues.like(f"% {code} %") for code in sorted({*codes})))


def count(transaction: Connection, found: Iterable[tuple[Lease, Sequence[str]]]) -> None:
    """Count the issues of new answers, and pause the jobs that have too many.

    Their jobs are locked, and the answers are counted as succeeded already. Not safe to repeat:
    call it for leases that still held.
    """
    by_job: dict[str, list[Sequence[str]]] = {}
    with_rule: set[str] = set()
    for lease, codes in found:
        if codes:
            by_job.setdefault(lease.job_id, []).append(codes)
        if lease.pauses_on_issues:
            with_rule.add(lease.job_id)
    for job_id, answers in sorted(by_job.items()):
        counted = transaction.execute(
            select(jobs.c.issue_counts).where(jobs.c.id == job_id)
        ).scalar_one()
        counts = Counter(counted) + Counter(code for codes in answers for code in codes)
        transaction.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(
                answers_with_issues=jobs.c.answers_with_issues + len(answers),
                issue_counts=dict(sorted(counts.items())),
            )
        )
    for job_id in sorted(with_rule):
        paused = _PAUSE.run(transaction, job=job_id, least=MIN_ANSWERS_TO_PAUSE).all()
        outbox.announce(
            transaction,
            [
                Announcement(row.owner_id, row.id, f"job.{JobState.PAUSED}", "paused_")
                for row in paused
            ],
        )
