"""What one owner, one clock or one caller does to all others: met in the field, or by attack."""

import json
import socket
import struct
import threading
from pathlib import Path

import httpx2
from sqlalchemy import text

from db.queue import leases, rescues, sessions
from db.sql.database import Database
from db.webhooks import endpoints, outbox
from tests import servers
from tests.db import builders
from tests.served import Serve
from workers.intake.check import ImageLimits, check
from workers.intake.named_locks import NamedLocks


def test_one_thread_at_a_time_works_on_an_image_also_while_others_wait() -> None:
    locks = NamedLocks()
    entered: list[str] = []
    steps = {name: threading.Event() for name in ("a in", "a out", "b in", "b out", "c in")}

    def work(name: str) -> None:
        with locks.holding("digest"):
            entered.append(name)
            steps[f"{name} in"].set()
            if name != "c":
                steps[f"{name} out"].wait(10)
            entered.append(name)

    threads = {name: threading.Thread(target=work, args=(name,)) for name in "abc"}
    threads["a"].start()
    steps["a in"].wait(10)
    threads["b"].start()
    while locks.users() < 2:
        pass
    steps["a out"].set()
    steps["b in"].wait(10)
    threads["c"].start()
    while locks.users() < 2:
        pass
    steps["b out"].set()
    for thread in threads.values():
        thread.join()

    assert entered == ["a", "a", "b", "b", "c", "c"]
    assert locks.users() == 0


def set_back(database: Database, *columns: str) -> None:
    """As a clock that goes back by two hours does: times in the record are ahead by them."""
    with database.transaction() as transaction:
        for table, column in (name.split(".") for name in columns):
            shifted = (
                f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '+2 hours')".replace(":", r"\:")
                if database.is_sqlite
                else f"{column} + interval '2 hours'"
            )
            transaction.execute(text(f"UPDATE {table} SET {column} = {shifted}"))


def test_a_clock_that_is_set_back_holds_up_nothing_that_was_queued(database: Database) -> None:
    session = builders.session(database)
    builders.job(database, items=2)
    set_back(database, "items.due_at")

    assert len(builders.claim(database, session)) == 2


def test_a_clock_that_is_set_back_holds_up_no_retry_that_was_claimed_and_released(
    database: Database,
) -> None:
    session = builders.session(database)
    builders.job(database)
    for wait_seconds in (60.0, 0.0):
        [lease] = builders.claim(database, session)
        with database.transaction() as transaction:
            leases.release(transaction, [lease], wait_seconds=wait_seconds)
        if wait_seconds:
            assert builders.claim(database, session) == []
            builders.make_due(database)
    set_back(database, "items.due_at")

    assert len(builders.claim(database, session)) == 1


def test_a_clock_that_is_set_back_keeps_no_dead_worker_alive(database: Database) -> None:
    builders.job(database)
    assert builders.claim(database, builders.session(database, "dead", lease_seconds=0.5))
    set_back(database, "sessions.alive_until")

    with database.transaction() as transaction:
        assert rescues.rescue(transaction) == 0
        sessions.shorten(transaction, 0.5)

    def is_rescued() -> bool:
        with database.transaction() as transaction:
            return rescues.rescue(transaction) == 1

    servers.wait_until(is_rescued)


def test_a_clock_that_is_set_back_holds_up_no_webhook(database: Database) -> None:
    owner_id = builders.owner(database)
    with database.transaction() as transaction:
        endpoints.add(transaction, owner_id, "https://example.com/", ())
    builders.job(database)
    builders.complete(database, builders.claim(database, builders.session(database)))
    set_back(database, "deliveries.due_at")

    with database.transaction() as transaction:
        assert len(outbox.take_due(transaction, 10)) == 1
        assert outbox.take_due(transaction, 10) == [], "it is being delivered"


def test_a_body_is_not_read_before_its_key_is_known(serve: Serve, sqlite_url: str) -> None:
    client = serve(sqlite_url, keys="always")
    port = client.base_url.port
    with socket.create_connection(("127.0.0.1", port or 0), timeout=3) as connection:
        connection.sendall(
            b"POST /v1/images/known HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 8000000\r\n\r\n["
        )

        try:
            told = connection.recv(100)
        except TimeoutError:
            told = b""
        assert told.startswith(b"HTTP/1.1 401")


def bomb(scans: int) -> bytes:
    """A progressive JPEG of 4,096 by 4,096 pixels whose every scan costs time and 60 bytes."""

    def segment(marker: int, body: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body

    blocks, bits = (4_096 // 8) ** 2, ""
    while blocks > 0:
        run = max(min(blocks, 32_767), 16_384)
        bits += "0" + format(run - 16_384, "014b")
        blocks -= run
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + data
    head = segment(0xDB, b"\0" + b"\x01" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, 4_096, 4_096, 1) + b"\x01\x11\x00")
    head += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    return b"\xff\xd8" + head + scan * scans + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    verdict = check(bomb(200), ImageLimits(image_bytes=20 * 2**20, pixels=50_000_000, aspect=50))

    assert verdict.code == "image_too_large"


def test_a_name_with_nul_is_one_clear_error_and_leaves_no_bytes_behind(
    http_sqlite: httpx2.Client, tmp_path: Path
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\0b.jsonl"\r\n\r\n{}\r\n'
        b"--b--\r\n"
    )
    answer = http_sqlite.post(
        "/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )

    assert answer.status_code in (400, 422), json.dumps(answer.json())
    assert [path for path in tmp_path.glob("blobs/**/*") if path.is_file()] == []
