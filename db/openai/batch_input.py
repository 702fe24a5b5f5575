"""The input file of a batch: its lines, checked and made canonical.

input file ─▶ read, check, make canonical ─▶ spool ─▶ job
                                          ─▶ a mistake of form: the batch fails

A mistake of form is one of the file: JSON, ids, URLs, the model. What is wrong within the body of a
line fails this line alone, as an item that was refused.
"""

import codecs
import logging
import sqlite3
from collections.abc import Iterator
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from db.openai.chat_request import ChatIn
from db.queue import sessions
from db.queue.data_images import DataImages
from db.queue.item_checker import ItemChecker, choose_model
from db.queue.sessions import Offer
from db.queue.spools import SpoolWriter
from db.queue.submissions import NewItem
from db.settings import SubmissionSettings
from db.sql.database import Database
from db.vocabulary.errors import QuotaExceeded, RequestError, TooLarge
from db.vocabulary.field_types import CustomId
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.requests import Request, refused
from db.vocabulary.texts import quotable
from db.vocabulary.validation_errors import request_error

#: Mistakes told of one file; reading ends there.
MAX_MISTAKES = 100
#: What people upload instead of text, by its first bytes.
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"(\xb5/\xfd": "compressed with zstd",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
#: Lines, and about as many bytes, that are checked before another owner has its turn.
SLICE_LINES, SLICE_BYTES = 500, 16 * 2**20


log = logging.getLogger(__name__)


class LineIn(BaseModel):
    """A line of an input file."""

    model_config = ConfigDict(extra="forbid")

    custom_id: CustomId
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class BatchInput:
    """Reads an input file: collects its mistakes, and its items in canonical form.

    Attributes:
        mistakes: What is wrong with the file, in the form that OpenAI's clients read.
        spool: The items of the file, if nothing is wrong.
        model: The model that the lines name; empty before the first good line.
    """

    def __init__(
        self, database: Database, settings: SubmissionSettings, images: DataImages, endpoint: str
    ) -> None:
        self._database, self._settings = database, settings
        self._images, self._endpoint = images, endpoint
        self.mistakes: list[dict[str, Any]] = []
        self.spool = SpoolWriter()
        self.model = ""
        # On disk when it grows: as many names as there are lines.
        self._seen = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._seen.execute("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        self._checker: ItemChecker | None = None

    def __enter__(self) -> "BatchInput":
        return self

    def __exit__(self, *_: object) -> None:
        self.spool.close()
        self._seen.close()

    @property
    def checker(self) -> ItemChecker:
        """What has checked the items of a file without mistakes."""
        assert self._checker
        return self._checker

    def read(self, stream: IO[bytes]) -> Iterator[None]:
        """Check every line, until there are MAX_MISTAKES mistakes, and store the images.

        Yields after each slice.
        """
        lines = size = 0
        for number, line in _numbered(stream, self._settings.max_line_bytes):
            if what := _no_text(line) if number == 1 else "":
                self.note(RequestError(f"the file is {what}; send lines of JSON as UTF-8"))
                return
            if lines >= SLICE_LINES or size >= SLICE_BYTES:
                yield
                lines = size = 0
            lines, size = lines + 1, size + len(line)
            if not self._goes_on(number, line):
                return
        if self.mistakes:
            return
        if not self.spool.count:
            self.note(RequestError("the file has no lines"))
        try:
            self._images.store()
        except QuotaExceeded as error:
            self.note(error)

    def _goes_on(self, number: int, line: bytes) -> bool:
        """Check a line. True if the next one is to be checked too."""
        if len(line.rstrip(b"\r\n")) > (most := self._settings.max_line_bytes):
            self.note(TooLarge(f"the line has more than {most} bytes"), number)
            return len(self.mistakes) < MAX_MISTAKES
        try:
            self._take(line)
        except ValidationError as error:
            self.note(request_error(error, line), number)
        except RequestError as error:
            of_a_line = _is_of_a_line(error)
            self.note(error, number if of_a_line else None)
            return of_a_line and len(self.mistakes) < MAX_MISTAKES
        return len(self.mistakes) < MAX_MISTAKES

    def note(self, error: RequestError, number: int | None = None) -> None:
        """Note a mistake of a line, or of the whole file."""
        param = quotable(error.field) if error.field else None
        self.mistakes.append(
            {"code": error.code, "line": number, "message": quotable(str(error)), "param": param}
        )

    def _take(self, line: bytes) -> None:
        given = LineIn.model_validate_json(line)
        if given.url != self._endpoint:
            raise RequestError(f"{given.url!r} is not the batch's endpoint", field="url")
        try:
            self._seen.execute("INSERT INTO seen VALUES (?)", (given.custom_id,))
        except sqlite3.IntegrityError as error:
            raise RequestError(
                f"duplicate custom_id: {given.custom_id!r}", field="custom_id"
            ) from error
        self.spool.add(self._item(given))
        if self.spool.count > (most := self._settings.max_lines):
            raise TooLarge(f"the file has more than {most} lines")

    def _item(self, given: LineIn) -> NewItem:
        model = given.body.get("model")
        if not isinstance(model, str):
            raise RequestError("the line names no model", field="body.model")
        checker = self._checker_of(model)
        try:
            asked = ChatIn.from_body(given.body)
            for name, is_asked in {"stream": asked.stream, "n": (asked.n or 1) > 1}.items():
                if is_asked:
                    raise RequestError("not allowed in a batch", field=name)
            return asked.item(checker, given.body, given.custom_id)
        except QuotaExceeded:
            raise
        except RequestError as error:
            place = f"{error.field}: " if error.field else ""
            return NewItem(refused(f"{place}{error}"), given.custom_id)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            # One line must not hold up its file for ever.
            log.exception("a line of a batch could not be checked")
            return NewItem(refused("internal error; see the service's log"), given.custom_id)

    def _checker_of(self, model: str) -> ItemChecker:
        name = self._settings.resolve_alias(model)
        if self._checker is None:
            with self._database.snapshot() as transaction:
                card = _chosen(sessions.offers(transaction), name)
            self._checker, self.model = ItemChecker(card, self._images, Request()), model
        if name != self._checker.card.name:
            raise RequestError(
                f"{model!r} here and {self.model!r} before: a batch has one model",
                field="body.model",
            )
        return self._checker


def _no_text(line: bytes) -> str:
    """Name what the first line shows a file to be; "" if it may be text."""
    return next((name for mark, name in _OTHER_FORMATS.items() if line.startswith(mark)), "")


def _is_of_a_line(error: RequestError) -> bool:
    """True if an error concerns one line, and not the whole file or the owner."""
    of_all = isinstance(error, TooLarge) and error.field is None
    return not of_all and not isinstance(error, QuotaExceeded)


def _chosen(offers: list[Offer], name: str) -> ModelInfo:
    try:
        return choose_model(offers, name)
    except RequestError as error:
        error.field = "body.model"
        raise


def _numbered(stream: IO[bytes], most: int) -> Iterator[tuple[int, bytes]]:
    """Yield non-empty lines with their numbers; of a longer one, more than `most` bytes."""
    number, cut = 0, most + len(codecs.BOM_UTF8) + 2
    while line := stream.readline(cut):
        number += 1
        rest = line
        while len(rest) == cut and not rest.endswith(b"\n"):
            rest = stream.readline(cut)
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line
