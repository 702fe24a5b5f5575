"""The bare SQL that the queue is compared with: the same rows, and no service around them.

    copy            the rows of a job as text ─▶ COPY into the same table
    claim_and_end   two processes: UPDATE … SKIP LOCKED, then UPDATE with the answers, in batches
    read            keyset pages of the results

Nothing here counts, retries, shares out, checks or is told to anybody.
"""

import io
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

#: Columns of an item as a submission leaves it.
SUBMITTED = (
    "owner_id, job_id, ordinal, custom_id, request, options_digest, stage, state, due_at, images"
)
RESULT = (
    "ordinal, custom_id, state, stage, request, images, answer, error_code, error_message,"
    " finished_at, result_number"
)
SESSION = "bare"
_CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT id FROM items
        WHERE job_id = %s AND stage = 'generate' AND state = 'queued' AND delayed = false
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED)
    UPDATE items SET state = 'running', attempt = attempt + 1, session_id = %s, claimed_at = now()
    FROM due WHERE items.id = due.id RETURNING items.id, items.request
"""
_END = """
    UPDATE items SET state = 'succeeded', answer = records.answer, finished_at = now(),
        session_id = NULL, result_number = items.id
    FROM unnest(%s::bigint[], %s::jsonb[]) AS records(id, answer)
    WHERE items.id = records.id AND state = 'running'
"""


def twin(url: str, job_id: str) -> tuple[str, bytes]:
    """A job like `job_id` that the service never looks at, and its items as COPY takes them."""
    other, text = f"{job_id}-bare", io.BytesIO()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs (id, owner_id, model, defaults, created_at)"
            " SELECT %s, owner_id, model, defaults, created_at FROM jobs WHERE id = %s",
            (other, job_id),
        )
        cursor.execute(
            "INSERT INTO sessions (id, worker, stage, started_at, alive_until) VALUES"
            " (%s, 'bare', 'generate', now(), now() + interval '1 day') ON CONFLICT DO NOTHING",
            (SESSION,),
        )
        columns = SUBMITTED.replace("job_id", f"'{other}'")
        query = f"COPY (SELECT {columns} FROM items WHERE job_id = '{job_id}') TO STDOUT"
        with cursor.copy(query) as rows:
            for piece in rows:
                text.write(piece)
    return other, text.getvalue()


def copy(url: str, rows: bytes) -> float:
    """Seconds to put rows into the table, committed."""
    with psycopg.connect(url) as connection:
        began = time.monotonic()
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY items ({SUBMITTED}) FROM STDIN") as into,
        ):
            for start in range(0, len(rows), 2**18):
                into.write(rows[start : start + 2**18])
        connection.commit()
        return time.monotonic() - began


def claim_and_end(
    url: str, job_id: str, answer: dict[str, Any], *, batch: int, processes: int
) -> float:
    """Seconds until every item of a job is answered."""
    return side_by_side(_loop, (url, job_id, json.dumps(answer), batch), processes)


def side_by_side(loop: Callable[..., None], arguments: tuple[Any, ...], processes: int) -> float:
    """Seconds that processes take for `loop`, without their start and their end.

    Args:
        loop: Calls `go()` when it is ready; that returns when all of them are.
        arguments: Of `loop`, before `go`.
    """
    context = multiprocessing.get_context("spawn")
    ready, started, done = context.Semaphore(0), context.Event(), context.Semaphore(0)
    some = [
        context.Process(target=_run, args=(loop, arguments, ready, started, done), daemon=True)
        for _ in range(processes)
    ]
    for process in some:
        process.start()
    _await(ready, some)
    began = time.monotonic()
    started.set()
    _await(done, some)
    seconds = time.monotonic() - began
    for process in some:
        process.join()
    return seconds


def _await(semaphore: Any, some: Sequence[Any]) -> None:
    for _ in some:
        while not semaphore.acquire(timeout=1.0):
            if any(process.exitcode for process in some):
                raise SystemExit("a loop failed")


def _run(
    loop: Callable[..., None], arguments: tuple[Any, ...], ready: Any, started: Any, done: Any
) -> None:
    def go() -> None:
        ready.release()
        started.wait()

    loop(*arguments, go)
    done.release()


def _loop(url: str, job_id: str, answer: str, batch: int, go: Callable[[], None]) -> None:
    with psycopg.connect(url) as connection:
        go()
        while True:
            claimed = connection.execute(_CLAIM, (job_id, batch, SESSION)).fetchall()
            connection.commit()
            if not claimed:
                return
            ids = [item_id for item_id, _ in claimed]
            connection.execute(_END, (ids, [answer] * len(ids)))
            connection.commit()


def read(url: str, job_id: str, *, page: int) -> float:
    """Seconds to read all results in pages."""
    with psycopg.connect(url) as connection:
        began, last = time.monotonic(), 0
        while rows := connection.execute(
            f"SELECT {RESULT} FROM items WHERE job_id = %s AND result_number > %s"
            " ORDER BY result_number LIMIT %s",
            (job_id, last, page),
        ).fetchall():
            last = rows[-1][-1]
        return time.monotonic() - began
