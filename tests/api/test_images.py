"""Uploads."""

import hashlib
import secrets
from pathlib import Path

import httpx2
import pytest

from db.blobs.opening import open_store
from db.blobs.store import image_key
from db.images import collection, known_images
from db.owners import LOCAL_OWNER
from db.settings import StorageSettings
from db.sql.database import Database
from tests import pictures
from tests.db import builders
from tests.db.test_blobs import s3_settings
from tests.served import Serve


@pytest.fixture
def bucket(s3_endpoint: str) -> StorageSettings:
    """A store of S3, of this test alone."""
    settings = s3_settings(s3_endpoint, f"b{secrets.token_hex(6)}")
    open_store(settings).prepare()
    return settings


def test_one_image_or_many_are_stored_under_their_digests(http: httpx2.Client) -> None:
    images = [pictures.plain(color) for color in ("red", "blue")]

    response = http.post(
        "/v1/images", files=[("file", (f"{n}.png", data)) for n, data in enumerate(images)]
    )

    assert response.status_code == 201
    assert response.json()["data"] == [
        {
            "image": f"blob:{hashlib.sha256(data).hexdigest()}",
            "filename": f"{n}.png",
            "size_bytes": len(data),
        }
        for n, data in enumerate(images)
    ]


def test_uploading_the_same_bytes_again_is_no_error(http: httpx2.Client) -> None:
    first, again = (http.post("/v1/images", files={"file": b"same"}).json() for _ in range(2))

    assert first["data"][0]["image"] == again["data"][0]["image"]


@pytest.mark.parametrize(
    ("files", "status", "says"),
    [
        ({"file": b""}, 422, "is empty"),
        ({"other": b"x"}, 422, "no part named `file`"),
        ({"file": b"x" * 2001}, 413, "the limit is 2000"),
        ({"file": b"x" * 20_000}, 413, "larger than 10000 bytes"),
    ],
)
def test_an_upload_that_cannot_be_taken_is_refused_with_its_name(
    serve: Serve, sqlite_url: str, files: dict[str, bytes], status: int, says: str
) -> None:
    http = serve(sqlite_url, max_upload_bytes=2000, max_upload_request_bytes=10_000)

    response = http.post("/v1/images", files=files)

    assert response.status_code == status
    assert says in response.json()["detail"]


@pytest.mark.parametrize("digests", [["x"], [1] * 100_000, ["\0"], ["0" * 64] * 10_001])
def test_a_list_of_what_are_no_digests_is_refused_in_few_words(
    http: httpx2.Client, digests: list[object]
) -> None:
    response = http.post("/v1/images/known", json=digests)

    assert response.status_code == 422
    assert len(response.content) < 2_000


def test_anything_but_a_form_is_refused(http_sqlite: httpx2.Client) -> None:
    response = http_sqlite.post("/v1/images", content=b"x", headers={"content-type": "image/png"})

    assert (response.status_code, response.json()["code"]) == (415, "wrong_media_type")


def test_an_image_can_be_put_straight_into_a_store_that_takes_it(
    serve: Serve, sqlite_url: str, bucket: StorageSettings
) -> None:
    http = serve(sqlite_url, store=bucket)
    data = pictures.plain()
    wanted = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}

    given = http.post("/v1/images/presign", json=[wanted]).json()["data"][0]
    put = httpx2.put(given["url"], content=data)

    assert put.status_code == 200
    assert given["image"] == f"blob:{wanted['sha256']}"
    stored = open_store(bucket).get(image_key(1, str(wanted["sha256"])))
    assert stored == data


def test_an_image_that_is_put_again_while_it_waits_to_be_collected_stays(
    serve: Serve, sqlite_url: str, bucket: StorageSettings
) -> None:
    http = serve(sqlite_url, store=bucket)
    database = Database(sqlite_url)
    owner_id, digest = builders.owner(database, LOCAL_OWNER), "ab" * 32
    builders.checked_image(database, owner_id, digest)
    with database.transaction() as transaction:
        collection.delete_image(transaction, owner_id, digest)  # as if marked long ago

    given = http.post("/v1/images/presign", json=[{"sha256": digest, "size_bytes": 1}])

    assert given.status_code == 200
    with database.transaction() as transaction:
        assert not collection.hold_marked(transaction, owner_id, digest)
        assert (
            known_images.stored(transaction, owner_id, [digest]) == set()
        )  # its bytes may not come
        known_images.mark_used(transaction, owner_id, [digest])
        assert known_images.stored(transaction, owner_id, [digest]) == {digest}
    database.dispose()


def test_a_folder_store_rejects_direct_uploads_with_a_reason(http_sqlite: httpx2.Client) -> None:
    response = http_sqlite.post("/v1/images/presign", json=[{"sha256": "0" * 64, "size_bytes": 1}])

    assert (response.status_code, response.json()["code"]) == (501, "unsupported")


def test_bytes_that_rot_are_served_to_nobody_and_the_next_upload_mends_them(
    http_sqlite: httpx2.Client, sqlite_url: str, tmp_path: Path
) -> None:
    data = pictures.plain()
    digest = hashlib.sha256(data).hexdigest()
    upload = {"file": ("a.png", data)}
    http_sqlite.post("/v1/images", files=upload)
    database = Database(sqlite_url)
    builders.checked_image(database, builders.owner(database, LOCAL_OWNER), digest)
    database.dispose()
    assert http_sqlite.get(f"/v1/images/blob:{digest}").content == data
    [path] = (tmp_path / "blobs").rglob(digest)
    path.write_bytes(data[:-1] + b"X")

    rotten = http_sqlite.get(f"/v1/images/blob:{digest}")
    known = http_sqlite.post("/v1/images/known", json=[digest]).json()
    http_sqlite.post("/v1/images", files=upload)

    assert (rotten.status_code, known) == (404, [])
    assert "upload it again" in rotten.json()["detail"]
    assert path.read_bytes() == data
