"""Submissions: from a body to a job, checked completely before anything is stored.

    JSON     ─▶ check every item ─────────────────────────▶ one transaction ─▶ 202
             or a bucket to be listed by upkeep
    NDJSON   ─▶ spool, line by line: check, make canonical ─▶ durable ─▶ job row ─▶ 202
                                                              (upkeep imports the lines)

Items are checked by db/queue/item_checker.py; acceptance.py makes them a job.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from api.acceptance import accept, accept_spool, open_checker
from api.schemas import FirstLine, JobIn, SubmissionIn
from api.services import Services
from db import owners
from db.queue.item_checker import ItemChecker
from db.queue.spools import SpoolWriter
from db.queue.submissions import NewJob
from db.vocabulary.errors import Forbidden, RequestError, TooLarge
from db.vocabulary.requests import ItemIn
from db.vocabulary.validation_errors import request_error

_FIRST_LINE = re.compile(rb'\s*\{\s*"job"')


@dataclass(frozen=True, slots=True)
class Envelope:
    """Facts of a submission outside its body."""

    owner_id: int
    idempotency_key: str | None


# ---- JSON ---------------------------------------------------------------------------


def submit_json(services: Services, envelope: Envelope, body: bytes) -> str:
    """Store a job that came as one JSON document. Returns its id.

    Raises:
        RequestError: Something in it cannot be accepted; nothing is stored.
    """
    try:
        submission = SubmissionIn.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error, body) from error
    most = services.settings.max_items
    if len(submission.items) > most:
        raise TooLarge(f"{len(submission.items)} items; send more than {most} as NDJSON")
    checker = open_checker(services, envelope.owner_id, submission.model, submission.defaults)
    if submission.source:
        _check_source(services, envelope.owner_id, submission, checker)
    new_items = []
    for index, item in enumerate(submission.items):
        try:
            new_items.append(checker.check(item))
        except RequestError as error:
            error.field = f"items.{index}.{error.field}" if error.field else f"items.{index}"
            raise
    checker.images.store()
    job = _new_job(envelope, submission, checker, hashlib.sha256(body).hexdigest())
    return accept(services, replace(job, source=submission.source), new_items)


def _new_job(envelope: Envelope, job: JobIn, checker: ItemChecker, body_digest: str) -> NewJob:
    return NewJob(
        owner_id=envelope.owner_id,
        model=checker.card.name,
        defaults=checker.defaults,
        name=job.name,
        idempotency_key=envelope.idempotency_key,
        body_digest=body_digest,
        priority=job.priority,
        expires_seconds=job.expires_after_seconds,
        pause_on_issues=job.pause_on_issues,
        model_changed=job.model_changed,
    )


def _check_source(
    services: Services, owner_id: int, submission: SubmissionIn, checker: ItemChecker
) -> None:
    """Reject a bucket that the owner may not read, and defaults that suit no image there."""
    assert submission.source
    if submission.items:
        raise RequestError("items and source exclude each other", field="source")
    bucket, _, prefix = submission.source.removeprefix("s3://").partition("/")
    with services.database.snapshot() as transaction:
        granted = owners.may_read(transaction, owner_id, bucket, prefix)
    if not granted:
        raise Forbidden(
            f"{submission.source} is not granted to this owner; its operator can do so with"
            " `idefiq admin grant`",
            field="source",
        )
    checker.check(ItemIn(images=[f"s3://{bucket}/{prefix}image"]))


# ---- NDJSON -------------------------------------------------------------------------


@dataclass
class Spool:
    """A streamed submission while it arrives; feed it, then finish or discard it.

    Blocking work: call it from a thread, never from the event loop.
    """

    services: Services
    envelope: Envelope
    _lines: SpoolWriter = field(default_factory=SpoolWriter)
    _digest: Any = field(default_factory=hashlib.sha256)
    _rest: bytes = b""
    _line: int = 0
    _job: JobIn = field(default_factory=lambda: JobIn.model_validate({}))
    _checker: ItemChecker | None = None

    def feed(self, data: bytes) -> None:
        """Check and keep the lines that `data` completes.

        Raises:
            RequestError: A line cannot be accepted; `line` says which.
        """
        self._digest.update(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        most = self.services.settings.max_line_bytes
        if len(self._rest) > most:
            raise TooLarge(f"longer than {most} bytes", line=self._line + 1)

    def finish(self) -> str:
        """Make the submission durable and create its job. Returns the job's id."""
        if self._rest:
            self._take(self._rest)
        checker = self._checker or self._open_checker()
        if not self._lines.count:
            raise RequestError("the stream has no items: send one a line")
        checker.images.store()
        job = _new_job(self.envelope, self._job, checker, self._digest.hexdigest())
        return accept_spool(self.services, job, self._lines)

    def discard(self) -> None:
        """Discard the submission."""
        self._lines.close()

    def _open_checker(self) -> ItemChecker:
        self._checker = open_checker(
            self.services, self.envelope.owner_id, self._job.model, self._job.defaults
        )
        return self._checker

    def _take(self, line: bytes) -> None:
        self._line += 1
        if not line.strip():
            return
        try:
            if self._checker is None and self._took_job(line):
                return
            checker = self._checker or self._open_checker()
            item = checker.check(ItemIn.model_validate_json(line))
        except ValidationError as error:
            raise request_error(error, line, line=self._line) from error
        except RequestError as error:
            error.line = self._line
            raise
        self._lines.add(item)
        if self._lines.count > self.services.settings.max_lines:
            raise TooLarge(f"more than {self.services.settings.max_lines} items", line=self._line)

    def _took_job(self, line: bytes) -> bool:
        """Take the first line if it is {"job": …}. Returns True if it was."""
        if not _FIRST_LINE.match(line):
            return False
        self._job = FirstLine.model_validate_json(line).job
        self._open_checker()
        return True
