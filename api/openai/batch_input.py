"""The input of a batch: the request that creates it, and the lines of its file.

input file ─▶ read, check, make canonical ─▶ no mistakes: spool ─▶ batch and job
                                          ─▶ mistakes: batch, failed, each with its line
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from api.acceptance import SpoolWriter, accept_spool
from api.errors import request_error
from api.item_checker import ItemChecker
from api.openai.requests import ChatIn
from api.openai.schemas import BatchOut
from api.schemas import CustomId, JobIn
from api.services import Services
from db.openai import batches
from db.openai.batch import Batch, NewBatch
from db.queue.submissions import NewJob
from db.sql.database import Transaction
from db.vocabulary.errors import QuotaExceeded, RequestError, TooLarge
from db.vocabulary.states import SourceApi
from workers.broker import UPKEEP

#: Mistakes told of one file; reading ends there.
MAX_MISTAKES = 100
#: Lines, and about as many bytes, that are checked before another owner has its turn.
SLICE_LINES, SLICE_BYTES = 500, 16 * 2**20
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}


class ExpiresAfter(BaseModel):
    """When the files that a batch writes are deleted."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


def _window(given: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}[mhd]", given):
        raise ValueError(
            f"invalid window: {given!r}; expected minutes, hours or days, such as 30m, 24h, 7d"
        )
    return given


class BatchIn(BaseModel):
    """A batch to create."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Annotated[str, AfterValidator(_window)] = Field(
        description="Minutes, hours or days, such as 24h; then it expires, with what it has"
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_seconds(self) -> int:
        """Length of the completion window."""
        return int(self.completion_window[:-1]) * _SECONDS[self.completion_window[-1]]


class LineIn(BaseModel):
    """A line of an input file."""

    model_config = ConfigDict(extra="forbid")

    custom_id: CustomId
    method: Literal["POST"]
    url: str
    body: ChatIn


class BatchInput:
    """Reads an input file: collects its errors, and its items in canonical form."""

    def __init__(self, services: Services, owner_id: int, endpoint: str) -> None:
        self._services, self._owner_id, self._endpoint = services, owner_id, endpoint
        self._lines = SpoolWriter()
        self._mistakes: list[dict[str, Any]] = []
        # On disk when it grows: as many names as there are lines.
        self._seen = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._seen.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        self._model = ""
        self._checker: ItemChecker | None = None

    def __enter__(self) -> "BatchInput":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._seen.close()

    def read(self, stream: IO[bytes]) -> Iterator[None]:
        """Check every line, until there are MAX_MISTAKES errors. Yields after each slice."""
        lines = size = 0
        for number, line in _numbered(stream, self._services.settings.max_line_bytes):
            if lines >= SLICE_LINES or size >= SLICE_BYTES:
                yield
                lines = size = 0
            lines, size = lines + 1, size + len(line)
            try:
                self._take(line)
            except ValidationError as error:
                self._note(number, request_error(error, line))
            except RequestError as error:
                if not _is_of_a_line(error):
                    raise
                self._note(number, error)
            if len(self._mistakes) >= MAX_MISTAKES:
                return
        if not self._lines.count and not self._mistakes:
            self._note(None, RequestError("the file has no lines"))

    def submit(self, new: NewBatch, *, again: bool) -> BatchOut:
        """Make the batch durable."""
        if self._mistakes:
            failed = replace(
                new,
                lines=self._lines.count,
                model=self._model or None,
                errors=self._mistakes,
            )
            with self._services.database.transaction() as transaction:
                batch, _ = batches.create_once(transaction, failed, None, again=again)
            self._services.wakes.wake(UPKEEP)
            return BatchOut.of(batch)
        assert self._checker
        self._checker.images.store()
        whole = replace(new, lines=self._lines.count, model=self._checker.card.name)
        job = NewJob(
            self._owner_id,
            self._checker.card.name,
            self._checker.defaults,
            source_api=SourceApi.BATCH,
        )

        def create(transaction: Transaction, job: NewJob) -> tuple[Batch, bool]:
            return batches.create_once(transaction, whole, job, again=again)

        return BatchOut.of(accept_spool(self._services, job, self._lines, create))

    def _take(self, line: bytes) -> None:
        given = LineIn.model_validate_json(line)
        if given.url != self._endpoint:
            raise RequestError(f"{given.url!r} is not the batch's endpoint", field="url")
        if given.body.stream:
            raise RequestError("stream is not allowed in a batch", field="body.stream")
        try:
            self._seen.execute("INSERT INTO seen VALUES (?)", (given.custom_id,))
        except sqlite3.IntegrityError as error:
            raise RequestError(
                f"duplicate custom_id: {given.custom_id!r}", field="custom_id"
            ) from error
        try:
            checker = self._checker_of(given.body.model)
            item = checker.check(given.body.item(checker.card, given.custom_id))
        except ValidationError as error:
            raise _within_body(request_error(error)) from error
        except QuotaExceeded:
            raise
        except RequestError as error:
            raise _within_body(error) from error
        self._lines.add(item)
        if self._lines.count > (most := self._services.settings.max_lines):
            raise TooLarge(f"the file has more than {most} lines")

    def _checker_of(self, model: str) -> ItemChecker:
        if self._checker is None:
            self._model = model
            name = self._services.settings.model_aliases.get(model, model)
            self._checker = ItemChecker(self._services, self._owner_id, JobIn(model=name))
        if model != self._model:
            raise RequestError(
                f"{model!r} here and {self._model!r} before: a batch has one model", field="model"
            )
        return self._checker

    def _note(self, number: int | None, error: RequestError) -> None:
        self._mistakes.append(
            {"code": error.code, "line": number, "message": str(error), "param": error.field}
        )


def _is_of_a_line(error: RequestError) -> bool:
    """True if an error concerns one line, and not the whole file or the owner."""
    of_all = isinstance(error, TooLarge) and error.field is None
    return not of_all and not isinstance(error, QuotaExceeded)


def _within_body(error: RequestError) -> RequestError:
    error.field = f"body.{error.field}" if error.field else "body"
    return error


def _numbered(stream: IO[bytes], most: int) -> Iterator[tuple[int, bytes]]:
    """Yield non-empty lines with their numbers; a longer one is cut, and so is not JSON."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        rest = line
        while len(rest) > most and not rest.endswith(b"\n"):
            rest = stream.readline(most + 1)
        if line.strip():
            yield number, line
