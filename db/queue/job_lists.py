"""Lists of jobs: all of an owner, or those of a state, name or model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, case, select

from db.queue.jobs import JOB_COLUMNS, Job, as_job
from db.tables import jobs
from db.vocabulary.states import JobState, SourceApi

#: `Job.state` in SQL.
_STATE = case(
    (
        jobs.c.finished_at.is_not(None),
        case(
            (jobs.c.cancelled_at >= jobs.c.expires_at, JobState.EXPIRED.value),
            (jobs.c.cancelled_at.is_not(None), JobState.CANCELLED.value),
            (jobs.c.failed > 0, JobState.FINISHED_WITH_ERRORS.value),
            else_=JobState.SUCCEEDED.value,
        ),
    ),
    (jobs.c.cancelled_at.is_not(None), JobState.CANCELLING.value),
    (jobs.c.sealed_at.is_(None), JobState.IMPORTING.value),
    (jobs.c.paused_at.is_not(None), JobState.PAUSED.value),
    (jobs.c.started_at.is_not(None), JobState.RUNNING.value),
    else_=JobState.QUEUED.value,
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list: all that have what is not None."""

    states: Sequence[str] | None = None
    name: str | None = None
    model: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield them as SQL."""
        if self.states is not None:
            yield _STATE.in_(self.states)
        for column, wanted in ((jobs.c.name, self.name), (jobs.c.model, self.model)):
            if wanted is not None:
                yield column == wanted


ALL_JOBS = JobFilter()


def page(
    transaction: Connection,
    owner_id: int,
    *,
    before: str | None,
    limit: int,
    only: JobFilter = ALL_JOBS,
) -> list[Job]:
    """Return an owner's jobs, newest first; `before` is the last id of the previous page.

    Single conversations are left out.
    """
    query = select(*JOB_COLUMNS).where(
        jobs.c.owner_id == owner_id,
        jobs.c.origin != SourceApi.CHAT.value,
        jobs.c.deleted_at.is_(None),
        *only.conditions(),
    )
    if before is not None:
        query = query.where(jobs.c.id < before)
    rows = transaction.execute(query.order_by(jobs.c.id.desc()).limit(limit))
    return [as_job(row) for row in rows]
