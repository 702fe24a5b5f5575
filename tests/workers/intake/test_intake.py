"""The intake stage, on a real record, store, S3 and children."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

from db import owners
from db.blobs.s3 import S3Store
from db.blobs.store import image_key
from db.images import known_images
from db.images.known_images import CheckResult
from db.queue import claims, leases, results
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.tables import jobs
from db.vocabulary.errors import CheckDied
from db.vocabulary.openai_rendering import failure
from db.vocabulary.requests import refused
from db.vocabulary.states import SourceApi, Stage
from tests import pictures
from tests.db import builders
from tests.db.test_blobs import s3_settings
from tests.workers import parts
from workers import svg
from workers.intake.check import Checkers
from workers.intake.fetch import Fetcher
from workers.intake.intake import Intake
from workers.intake.source import Sources
from workers.intake.threads import HostTurns
from workers.settings import IntakeSettings

SQUARE = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><rect width="9"/></svg>'


@pytest.fixture(scope="module")
def checkers() -> Iterator[Checkers]:
    made = Checkers(IntakeSettings(intake_children=1))
    yield made
    made.close()


@pytest.fixture
def asked() -> list[str]:
    """What the web server was asked for."""
    return []


@pytest.fixture
def web(asked: list[str]) -> Iterator[str]:
    """A web server with two images."""

    class Handler(BaseHTTPRequestHandler):
        bodies: ClassVar[dict[str, bytes]] = {
            "/green.png": pictures.plain("green"),
            "/square.svg": SQUARE,
        }

        def do_GET(self) -> None:
            asked.append(self.path)
            body = self.bodies.get(self.path, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def intake(database: Database, tmp_path: Path, checkers: Checkers, web: str) -> Iterator[Intake]:
    port = int(web.rpartition(":")[2])
    limits: dict[str, Any] = {"fetch_networks": ["127.0.0.1/32"], "max_image_bytes": 100_000}
    with parts.intake(database, tmp_path, checkers, fetch_ports={port}, **limits) as made:
        yield made


def upload(
    database: Database, folder: Path, data: bytes, digest: str = "", owner: str = "ada"
) -> str:
    owner_id = builders.owner(database, owner)
    digest = digest or hashlib.sha256(data).hexdigest()
    parts.store(folder).put(image_key(owner_id, digest), io.BytesIO(data))
    return f"blob:{digest}"


def submit(database: Database, *references: str, owner: str = "ada") -> str:
    new = NewJob(builders.owner(database, owner), builders.MODEL, {})
    with database.transaction() as transaction:
        return builders.submit(transaction, new, [NewItem({"images": [ref]}) for ref in references])


def run(intake: Intake) -> None:
    """Take in everything that is due."""
    while intake.run_once():
        intake.wait_until_idle()


def outcomes(database: Database, job_id: str) -> list[tuple[str, str | None]]:
    """Stage, or error code, of each item."""
    with database.snapshot() as transaction:
        found = results.in_order(transaction, job_id, first=0, limit=100)
    return [(item.stage, item.error_code) for item in found]


def test_good_images_go_on_and_bad_ones_fail_alone(
    intake: Intake, database: Database, tmp_path: Path, web: str
) -> None:
    good = upload(database, tmp_path, pictures.plain())
    junk = upload(database, tmp_path, b"junk")
    job_id = submit(
        database,
        good,
        junk,
        f"{web}/green.png",
        f"{web}/missing.png",
        "http://10.0.0.1/private.png",
        "blob:" + "0" * 64,
        upload(database, tmp_path, b"other bytes", digest="1" * 64),
        upload(database, tmp_path, b"x" * 100_001),
        "s3://photos/a.png",
    )

    run(intake)

    assert outcomes(database, job_id) == [
        ("generate", None),
        ("intake", "image_unreadable"),
        ("generate", None),
        ("intake", "image_not_found"),
        ("intake", "image_forbidden"),
        ("intake", "image_not_found"),
        ("intake", "image_mismatch"),
        ("intake", "image_too_large"),
        ("intake", "image_forbidden"),
    ]


def test_whoever_waits_is_told_at_once_that_an_image_cannot_be_reached(
    intake: Intake, database: Database, web: str
) -> None:
    """A job tries again later; a conversation has somebody who waits."""
    unknown = f"http://nowhere.invalid:{web.rpartition(':')[2]}/a.png"
    new = NewJob(builders.owner(database), builders.MODEL, {}, source_api=SourceApi.CHAT)
    items = [NewItem({"images": [f"{web}/green.png", unknown]})]
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, new, items)

    run(intake)

    with database.snapshot() as transaction:
        [item] = results.in_order(transaction, job_id, first=0, limit=1)
    assert item.error_code == "image_unreachable"
    assert item.error_message == (
        f"{unknown}: the image's server failed: nowhere.invalid does not resolve"
    )
    assert failure(item)[0] == 400


def test_an_item_that_was_wrong_when_it_was_submitted_fails_alone(
    intake: Intake, database: Database, web: str
) -> None:
    new = NewJob(builders.owner(database), builders.MODEL, {})
    items = [NewItem(refused("n: not supported")), NewItem({"images": [f"{web}/green.png"]})]
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, new, items)

    run(intake)

    with database.snapshot() as transaction:
        wrong, good = results.in_order(transaction, job_id, first=0, limit=2)
    assert (wrong.state, wrong.error_code, wrong.error_message) == (
        "failed",
        "item_invalid",
        "n: not supported",
    )
    assert good.stage == "generate"


def test_what_was_fetched_is_kept_as_a_blob_and_its_reference_in_the_item(
    intake: Intake, database: Database, tmp_path: Path, web: str
) -> None:
    job_id = submit(database, f"{web}/green.png")

    run(intake)

    digest = hashlib.sha256(pictures.plain("green")).hexdigest()
    with database.snapshot() as transaction:
        item = results.get(transaction, builders.owner(database), job_id, 0)
    assert item.images == [f"blob:{digest}"]
    stored = parts.store(tmp_path).get(image_key(builders.owner(database), digest))
    assert stored == pictures.plain("green")


def test_an_svg_is_rendered_for_the_model_and_a_bad_one_fails_alone(
    intake: Intake, database: Database, tmp_path: Path
) -> None:
    outside = SQUARE.replace(b"<rect ", b'<image href="/etc/hostname" ')
    good, bad = (upload(database, tmp_path, data) for data in (SQUARE, outside))
    job_id = submit(database, good, bad, good)

    run(intake)

    drawn = svg.rasterise(SQUARE)
    assert outcomes(database, job_id) == [
        ("generate", None),
        ("intake", "image_unreadable"),
        ("generate", None),
    ]
    with database.snapshot() as transaction:
        item = results.get(transaction, builders.owner(database), job_id, 0)
    assert item.images == [f"blob:{hashlib.sha256(drawn).hexdigest()}"]
    digest = hashlib.sha256(drawn).hexdigest()
    assert parts.store(tmp_path).get(image_key(builders.owner(database), digest)) == drawn


def test_a_fetched_svg_is_stored_as_sent_and_as_rendered(
    intake: Intake, database: Database, web: str
) -> None:
    job_id = submit(database, f"{web}/square.svg")

    run(intake)

    digests = {hashlib.sha256(data).hexdigest() for data in (SQUARE, svg.rasterise(SQUARE))}
    assert outcomes(database, job_id) == [("generate", None)]
    with database.snapshot() as transaction:
        assert known_images.stored(transaction, builders.owner(database), digests) == digests


def test_an_image_is_checked_once_however_many_items_share_it(
    intake: Intake,
    checkers: Checkers,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[bytes] = []
    real = checkers.check

    def counted(owner_id: int, data: bytes) -> CheckResult:
        checked.append(data)
        return real(owner_id, data)

    monkeypatch.setattr(checkers, "check", counted)
    image = upload(database, tmp_path, pictures.plain())
    first = submit(database, *[image] * 20)

    run(intake)
    second = submit(database, image)

    assert outcomes(database, first) == [("generate", None)] * 20
    assert outcomes(database, second) == [("generate", None)]  # intake need not even look
    assert len(checked) == 1


def test_an_image_that_kills_two_children_is_poison_and_one_crash_is_not(
    intake: Intake,
    checkers: Checkers,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died: list[bytes] = []

    def die(_: int, data: bytes) -> CheckResult:
        died.append(data)
        raise CheckDied("the process that checked the image died")

    monkeypatch.setattr(checkers, "check", die)
    image = upload(database, tmp_path, pictures.plain())
    job_id = submit(database, image)

    run(intake)
    after_one = outcomes(database, job_id)
    builders.make_due(database)
    run(intake)

    assert after_one == [("intake", None)]
    assert outcomes(database, job_id) == [("intake", "image_poison")]
    with database.snapshot() as transaction:
        owner_id, digest = builders.owner(database), image.removeprefix("blob:")
        assert known_images.get(transaction, owner_id, [digest])[digest].code == "image_poison"
    another = submit(database, image)
    run(intake)
    assert outcomes(database, another) == [("intake", "image_poison")]
    assert len(died) == 2


def test_objects_of_a_granted_prefix_are_read_and_never_those_of_our_own_bucket(
    database: Database, tmp_path: Path, s3_endpoint: str
) -> None:
    photos = S3Store(s3_settings(s3_endpoint, "photos").model_copy(update={"s3_prefix": ""}))
    photos.prepare()
    photos.put("2026/a.png", io.BytesIO(pictures.plain()))
    owner_id = builders.owner(database)
    with database.transaction() as transaction:
        ada = owners.get_or_create(transaction, "ada")
        for bucket in ("photos", "own"):
            owners.grant(transaction, ada, bucket=bucket, prefix="2026/")
    fetcher = Fetcher(IntakeSettings(), HostTurns(4))
    sources = Sources(
        database, parts.store(tmp_path), fetcher, s3_settings(s3_endpoint, "own"), 100_000
    )

    read = sources.read(owner_id, "s3://photos/2026/a.png")
    codes = {}
    for key in ("photos/2025/a.png", "photos/2026/b.png", "own/2026/a.png"):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the code is what is compared
            sources.read(owner_id, f"s3://{key}")
        codes[key] = getattr(caught.value, "code", None)
    fetcher.close()

    assert read == pictures.plain()
    assert codes == {
        "photos/2025/a.png": "image_forbidden",
        "photos/2026/b.png": "image_not_found",
        "own/2026/a.png": "image_forbidden",
    }


def test_check_results_are_kept_by_owner(database: Database) -> None:
    builders.checked_image(database, builders.owner(database, "ada"))

    with database.snapshot() as transaction:
        eve = builders.owner(database, "eve") if not database.is_sqlite else 999
        assert known_images.checked(transaction, eve, {builders.IMAGE}) == set()


def test_the_next_stage_starts_with_no_attempts_charged(database: Database, tmp_path: Path) -> None:
    image = upload(database, tmp_path, pictures.plain())
    submit(database, image)
    session = parts.session(database, tmp_path, Stage.INTAKE)
    with database.transaction() as transaction:
        [lease] = claims.claim(
            transaction, session=session.id, stage=Stage.INTAKE, model=None, limit=1
        )
        leases.advance(transaction, [(lease, [image])])

    [again] = builders.claim(database, builders.session(database))
    session.stop()

    assert (again.claim_number, again.attempts, again.images) == (2, 0, [image])


def shots(job_id: str, database: Database) -> tuple[list[list[str] | None], object]:
    """Each item's images, and the examples that the job's items share."""
    with database.snapshot() as transaction:
        found = results.in_order(transaction, job_id, first=0, limit=100)
        shared = transaction.execute(select(jobs.c.examples).where(jobs.c.id == job_id)).scalar()
    return [item.images for item in found], shared


def test_examples_that_a_job_shares_are_fetched_and_stored_once(
    intake: Intake, database: Database, tmp_path: Path, web: str, asked: list[str]
) -> None:
    example = {"image": f"{web}/green.png", "text": "green"}
    new = NewJob(builders.owner(database), builders.MODEL, {"examples": [example]})
    images = [upload(database, tmp_path, pictures.plain(tone)) for tone in ("red", "blue", "gray")]
    with database.transaction() as transaction:
        job_id = builders.submit(
            transaction, new, [NewItem({"images": [image]}) for image in images]
        )

    run(intake)
    shown, shared = shots(job_id, database)
    green = f"blob:{hashlib.sha256(pictures.plain('green')).hexdigest()}"

    assert asked == ["/green.png"]
    assert shown == [[image] for image in images]
    assert shared == [green]
    leased = builders.claim(database, builders.session(database))
    assert [lease.examples for lease in leased] == [[green]] * 3


def test_an_item_with_examples_of_its_own_keeps_them_to_itself(
    intake: Intake, database: Database, tmp_path: Path, web: str
) -> None:
    image = upload(database, tmp_path, pictures.plain("red"))
    shared, own = (upload(database, tmp_path, pictures.plain(tone)) for tone in ("blue", "gray"))
    new = NewJob(
        builders.owner(database),
        builders.MODEL,
        {"examples": [{"image": shared, "text": "blue"}]},
    )
    items = [
        NewItem({"images": [image]}),
        NewItem({"images": [image], "examples": [{"image": own, "text": "gray"}]}),
        NewItem({"images": [image], "examples": []}),
    ]
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, new, items)

    run(intake)
    first = builders.claim(database, builders.session(database))
    # Once all of it is checked, another job needs no intake.
    with database.transaction() as transaction:
        again = builders.submit(transaction, new, items)
    second = builders.claim(database, builders.session(database, "w2"))

    for leased in (first, second):
        assert [lease.examples for lease in leased] == [[shared], [own], []]
        assert [lease.images for lease in leased] == [[image]] * 3
    assert {lease.job_id for lease in second} == {again}
    assert job_id != again


def test_a_shared_example_that_is_not_there_fails_its_items_with_the_reason(
    intake: Intake, database: Database, tmp_path: Path, web: str, asked: list[str]
) -> None:
    example = {"image": f"{web}/missing.png", "text": "green"}
    new = NewJob(builders.owner(database), builders.MODEL, {"examples": [example]})
    image = upload(database, tmp_path, pictures.plain("red"))
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, new, [NewItem({"images": [image]})] * 2)

    run(intake)

    assert outcomes(database, job_id) == [("intake", "image_not_found")] * 2
    assert asked == ["/missing.png"]
