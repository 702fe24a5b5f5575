"""Logs of every process on standard error: lines for people, or JSON for programs.

A JSON line has `time`, `level`, `process`, `pid`, `logger` and `message`, `exception` if there is
one, and the ids that were bound, or passed as `extra={"ids": …}`: `worker`, `request_id`,
`trace_id`, `job_id`, `item_id`, `item_ids` (of a batch), `subject` (the job, batch or file that
upkeep works on).
"""

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

_bound: ContextVar[dict[str, object]] = ContextVar("bound")


class Bound:
    """A block in which ids are added to what is logged, in this thread or task."""

    __slots__ = ("_ids", "_token")

    def __init__(self, ids: dict[str, object]) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        self._token = _bound.set({**_bound.get({}), **self._ids})

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)


def bound(**ids: object) -> Bound:
    """Add ids to what is logged inside the block, in this thread or task."""
    return Bound(ids)


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON.

    Args:
        ids: Fields of every line, such as the name of the process.
    """

    def __init__(self, **ids: object) -> None:
        super().__init__()
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._ids,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **_bound.get({}),
            **getattr(record, "ids", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(process: str, log_format: LogFormat = "text", **ids: object) -> None:
    """Log to standard error, from now on in this format. Safe to repeat.

    Args:
        process: The kind of process: api, engine, intake or upkeep.
        ids: Further fields of every JSON line.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter(process=process, **ids))
    else:
        line = f"%(asctime)s %(levelname)s {process}[{os.getpid()}] %(message)s"
        handler.setFormatter(logging.Formatter(line))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
