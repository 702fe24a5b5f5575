"""From a body to a job: checked whole before anything is stored.

    JSON     ─▶ check every item ─────────────────────────▶ one transaction ─▶ 202
    NDJSON   ─▶ spool, line by line: check, make canonical ─▶ durable ─▶ job row ─▶ 202
                                                              (upkeep imports the lines)

`data:` images become blobs on the way, so the record never holds bytes.
"""

import base64
import binascii
import hashlib
import io
import json
import re
import secrets
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any

from pydantic import ValidationError

from api.errors import request_error
from api.schemas import FirstLine, ItemIn, JobIn, SubmissionIn
from api.services import Services
from db import sessions, submissions, verdicts
from db.blobs import image_key, spool_key
from db.cards import ModelCard, check_effective
from db.errors import IdempotencyConflict, RequestError, TooLarge, UnknownModel
from db.requests import effective
from db.sessions import Offer
from db.submissions import NewItem, NewJob
from workers.broker import INTAKE, UPKEEP, engine_queue

_FIRST_LINE = re.compile(rb'\s*\{\s*"job"')


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a submission says outside its body."""

    owner_id: int
    idempotency_key: str | None


def choose_model(offers: list[Offer], name: str | None) -> ModelCard:
    """The card of the model that a job names, or of the only one there is.

    Raises:
        UnknownModel: There is no such model, or the choice is not clear.
    """
    known = {offer.card.name: offer.card for offer in offers}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    listed = ", ".join(sorted(known)) or "none yet; start an engine worker"
    wrong = f"there is no model {name!r}" if name else "say which model"
    raise UnknownModel(f"{wrong}; known models: {listed}", field="model")


class ItemChecker:
    """Checks items against the job's defaults and its model, and stores `data:` images."""

    def __init__(self, services: Services, owner_id: int, job: JobIn) -> None:
        self._services, self._owner_id = services, owner_id
        with services.database.snapshot() as transaction:
            self.card = choose_model(sessions.offers(transaction), job.model)
        self.defaults = self._store_data(job.defaults.canonical())

    def check(self, item: ItemIn) -> NewItem:
        """The item as it is stored.

        Raises:
            RequestError: The model cannot answer it; `field` says what is wrong.
        """
        request = item.canonical()
        custom_id = request.pop("custom_id", None)
        check_effective(effective(self.defaults, request), self.card)
        return NewItem(self._store_data(request), custom_id)

    def _store_data(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace `data:` references by those of the blobs that they become."""
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
        self._services.store.put(image_key(self._owner_id, digest), io.BytesIO(data))
        with self._services.database.transaction() as transaction:
            verdicts.add(transaction, self._owner_id, {digest: len(data)})
        return f"blob:{digest}"


# ---- JSON ---------------------------------------------------------------------------


def submit_json(services: Services, envelope: Envelope, body: bytes) -> str:
    """Store a job that came as one JSON document. Returns its id.

    Raises:
        RequestError: Something in it cannot be accepted; nothing is stored.
    """
    try:
        submission = SubmissionIn.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error) from error
    most = services.settings.max_items
    if len(submission.items) > most:
        raise TooLarge(f"{len(submission.items)} items; send more than {most} as NDJSON")
    checker = ItemChecker(services, envelope.owner_id, submission)
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
    )
    with services.database.transaction() as transaction:
        job_id = submissions.submit(transaction, job, new_items)
    services.wakes.wake(INTAKE, engine_queue(job.model))
    return job_id


# ---- NDJSON -------------------------------------------------------------------------


@dataclass
class Spool:
    """A streamed submission while it arrives; feed it, then finish or discard it.

    Blocking work: call it from a thread, never from the event loop.
    """

    services: Services
    envelope: Envelope
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _digest: Any = field(default_factory=hashlib.sha256)
    _rest: bytes = b""
    _line: int = 0
    _items: int = 0
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
        key = spool_key(self.envelope.owner_id, secrets.token_hex(16))
        job = NewJob(
            owner_id=self.envelope.owner_id,
            model=checker.card.name,
            defaults=checker.defaults,
            name=self._job.name,
            idempotency_key=self.envelope.idempotency_key,
            body_digest=self._digest.hexdigest(),
            spool_key=key,
            spool_lines=self._items,
        )
        self._file.seek(0)
        self.services.store.put(key, self._file)
        try:
            with self.services.database.transaction() as transaction:
                job_id, created = submissions.create_once(transaction, job)
        except IdempotencyConflict:
            self.services.store.delete(key)
            raise
        if not created:
            self.services.store.delete(key)
        self.services.wakes.wake(UPKEEP)
        return job_id

    def discard(self) -> None:
        """Forget what was kept."""
        self._file.close()

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
            raise request_error(error, line=self._line) from error
        except RequestError as error:
            error.line = self._line
            raise
        kept = {"request": item.request, "custom_id": item.custom_id}
        self._file.write(json.dumps(kept).encode() + b"\n")
        self._items += 1
        if self._items > self.services.settings.max_lines:
            raise TooLarge(f"more than {self.services.settings.max_lines} items", line=self._line)

    def _took_job(self, line: bytes) -> bool:
        """Whether this first line is {"job": …}, which then is taken."""
        if not _FIRST_LINE.match(line):
            return False
        self._job = FirstLine.model_validate_json(line).job
        self._open_checker()
        return True
