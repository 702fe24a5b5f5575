"""Uploads."""

import hashlib

import httpx2
import pytest

from tests import pictures
from tests.served import Serve


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
        ({"file": b"x" * 2001}, 413, "at most 2000 are taken"),
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


def test_a_folder_store_says_that_it_takes_no_direct_uploads(http_sqlite: httpx2.Client) -> None:
    response = http_sqlite.post("/v1/images/presign", json={"sha256": "0" * 64, "size_bytes": 1})

    assert (response.status_code, response.json()["code"]) == (501, "unsupported")
