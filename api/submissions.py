"""Submissions: from a body to a job, checked completely before anything is stored.

    JSON     ─▶ check every item ─────────────────────────▶ one transaction ─▶ 202
             or a bucket to be listed by upkeep
    NDJSON   ─▶ spool, line by line: check, make canonical ─▶ durable ─▶ job row ─▶ 202
                                                              (upkeep imports the lines)

`data:` images become blobs on the way, so the database never holds bytes.
"""

import base64
import binascii
import hashlib
import io
import re
import secrets
import tempfile
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from api.errors import request_error
from api.schemas import FirstLine, ItemIn, JobIn, SubmissionIn
from api.services import Services
from db import failpoints, known_images, owners, quotas, sessions, submissions
from db.blobs import BlobStore, image_key, spool_key
from db.database import Transaction
from db.errors import Forbidden, RequestError, TooLarge, UnknownModel
from db.model_info import ModelInfo
from db.request_validation import validate_request
from db.requests import effective, example_references, image_references
from db.sessions import Offer
from db.submissions import NewItem, NewJob
from workers.broker import INTAKE, UPKEEP, engine_queue

_FIRST_LINE = re.compile(rb'\s*\{\s*"job"')
#: Of one item, or of the defaults of a job, with references where images were.
MAX_REQUEST_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Envelope:
    """Facts of a submission outside its body."""

    owner_id: int
    idempotency_key: str | None


def choose_model(offers: list[Offer], name: str | None) -> ModelInfo:
    """Return the info of the model that a job names, or of the only one.

    Raises:
        UnknownModel: There is no such model, or the choice is not clear.
    """
    known = {offer.card.name: offer.card for offer in offers}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    listed = ", ".join(sorted(known)) or "none yet; start an engine worker"
    wrong = f"no such model: {name!r}" if name else "say which model"
    raise UnknownModel(f"{wrong}; known models: {listed}", field="model")


class ItemChecker:
    """Checks items against the job's defaults and its model, and stores `data:` images."""

    def __init__(self, services: Services, owner_id: int, job: JobIn) -> None:
        self._services, self._owner_id = services, owner_id
        with services.database.snapshot() as transaction:
            self.card = choose_model(sessions.offers(transaction), job.model)
        self.defaults = self._store_data(job.defaults.canonical())

    def check(self, item: ItemIn) -> NewItem:
        """Return the item in the form that is stored.

        Raises:
            RequestError: The model cannot answer it; `field` says what is wrong.
        """
        request = item.canonical()
        custom_id = request.pop("custom_id", None)
        validate_request(effective(self.defaults, request), self.card)
        return NewItem(self._store_data(request), custom_id)

    def _store_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace `data:` references by those of stored blobs.

        All else is bounded: pages of items are held in memory at once.
        """
        shown = [*image_references(request), *example_references(request)]
        data = sum(len(reference) for reference in shown if reference.startswith("data:"))
        if (size := len(orjson.dumps(request)) - data) > MAX_REQUEST_BYTES:
            raise RequestError(
                f"{size} bytes beside its images; an item, or the defaults of a job, may have"
                f" {MAX_REQUEST_BYTES}"
            )
        if "images" in request:
            request["images"] = [self._stored(ref) for ref in request["images"]]
        for example in request.get("examples", ()):
            example["image"] = self._stored(example["image"])
        return request

    def _stored(self, reference: str) -> str:
        if not reference.startswith("data:"):
            return reference
        try:
            data = base64.b64decode(reference.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise RequestError("a data: image is not base64", field="images") from error
        if len(data) > self._services.settings.max_upload_bytes:
            raise TooLarge(
                f"a data: image has {len(data)} bytes; at most"
                f" {self._services.settings.max_upload_bytes} are taken",
                field="images",
            )
        digest = hashlib.sha256(data).hexdigest()
        with self._services.database.transaction() as transaction:
            quotas.check_upload(transaction, self._owner_id, self._services.limits, len(data))
            known_images.mark_used(transaction, self._owner_id, [digest], storing=True)
        self._services.store.put(image_key(self._owner_id, digest), io.BytesIO(data))
        # With a row it is collected some day, even if the submission is refused.
        with self._services.database.transaction() as transaction:
            known_images.add(transaction, self._owner_id, {digest: len(data)})
        return f"blob:{digest}"


def tell_submitted(services: Services, model: str) -> None:
    """Wake the workers that have work with a job that was submitted completely."""
    failpoints.trigger("submitted")
    services.wakes.wake(INTAKE, engine_queue(model))


def check_quota(transaction: Transaction, services: Services, job: NewJob, new_items: int) -> None:
    """Reject a job that exceeds its owner's quotas, unless it was submitted before.

    Raises:
        QuotaExceeded: Not now.
        TooLarge: Never.
    """
    if submissions.submitted_before(transaction, job) is None:
        limits = services.limits
        quotas.check_submission(transaction, job.owner_id, limits, new_items)


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
    checker = ItemChecker(services, envelope.owner_id, submission)
    if submission.source:
        _check_source(services, envelope.owner_id, submission, checker)
    new_items = []
    for index, item in enumerate(submission.items):
        try:
            new_items.append(checker.check(item))
        except RequestError as error:
            error.field = f"items.{index}.{error.field}" if error.field else f"items.{index}"
            raise
    job = NewJob(
        owner_id=envelope.owner_id,
        model=checker.card.name,
        defaults=checker.defaults,
        name=submission.name,
        idempotency_key=envelope.idempotency_key,
        body_digest=hashlib.sha256(body).hexdigest(),
        source=submission.source,
        priority=submission.priority,
        expires_seconds=submission.expires_after_seconds,
    )
    with services.database.transaction() as transaction:
        check_quota(transaction, services, job, len(new_items))
        if job.source:
            job_id, _ = submissions.create_once(transaction, job)
        else:
            job_id = submissions.submit(transaction, job, new_items)
    if job.source:
        services.wakes.wake(UPKEEP)
    else:
        tell_submitted(services, job.model)
    return job_id


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


class SpoolWriter:
    """Checked items on their way into the blob store, from where upkeep imports them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by its owner
        self.count = 0

    def add(self, item: NewItem) -> None:
        """Add one item."""
        kept = {"request": item.request, "custom_id": item.custom_id}
        self._file.write(orjson.dumps(kept) + b"\n")
        self.count += 1

    def store(self, store: BlobStore, owner_id: int) -> str:
        """Store the items durably. Returns their key."""
        key = spool_key(owner_id, secrets.token_hex(16))
        self._file.seek(0)
        store.put(key, self._file)
        return key

    def close(self) -> None:
        """Discard the items that were not stored."""
        self._file.close()


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
        key = self._lines.store(self.services.store, self.envelope.owner_id)
        job = NewJob(
            owner_id=self.envelope.owner_id,
            model=checker.card.name,
            defaults=checker.defaults,
            name=self._job.name,
            idempotency_key=self.envelope.idempotency_key,
            body_digest=self._digest.hexdigest(),
            spool_key=key,
            spool_lines=self._lines.count,
            priority=self._job.priority,
            expires_seconds=self._job.expires_after_seconds,
        )
        try:
            with self.services.database.transaction() as transaction:
                check_quota(transaction, self.services, job, self._lines.count)
                job_id, created = submissions.create_once(transaction, job)
        except RequestError:
            self.services.store.delete(key)
            raise
        if not created:
            self.services.store.delete(key)
        failpoints.trigger("submitted")
        self.services.wakes.wake(UPKEEP)
        return job_id

    def discard(self) -> None:
        """Discard the submission."""
        self._lines.close()

    def _open_checker(self) -> ItemChecker:
        self._checker = ItemChecker(self.services, self.envelope.owner_id, self._job)
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
