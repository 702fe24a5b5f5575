"""Header fields as the standards have them, whoever writes them."""

import httpx2
import pytest

from api.header_fields import accepts, media_type, wait_seconds
from tests.served import Serve

NDJSON = "application/x-ndjson"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (NDJSON, True),
        ("text/html, Application/X-NDJSON;q=0.5", True),
        ("application/x-ndjson; q=0", False),
        ("application/x-ndjson ; q=0.000, */*", False),
        ("application/x-ndjson-seq", False),
        ("*/*", False),
        ("", False),
        (None, False),
    ],
)
def test_lines_are_sent_to_whoever_accepts_them(field: str | None, wanted: bool) -> None:
    assert accepts(field, NDJSON) is wanted


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, WAIT = 7 ; foo=1", 7),
        ('foo="a, wait=3", wait="4"', 4),
        ("wait=1, wait=9", 1),
        ("foo; wait=9", 0),
        ("wait=soon", 0),
        ("wait", 0),
        ("await=3", 0),
        pytest.param('\\"' * 32_000, 0, id="quotes without an end, 64 KB of them"),
        (",,", 0),
        (None, 0),
    ],
)
def test_a_preference_to_wait_is_read_as_rfc_7240_has_it(field: str | None, seconds: int) -> None:
    assert wait_seconds(field) == seconds


def test_a_media_type_is_read_without_case_and_parameters() -> None:
    assert media_type("Application/JSON ; charset=utf-8") == "application/json"
    assert media_type(None) == ""


def test_a_body_may_name_its_type_in_any_case(http_sqlite: httpx2.Client) -> None:
    answer = http_sqlite.post(
        "/v1/jobs", content=b"{}", headers={"content-type": "APPLICATION/X-NDJSON"}
    )

    assert answer.status_code != 415


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/jobs", "GET, HEAD, POST"), ("/v1/jobs/job_none", "DELETE, GET, HEAD, PATCH")],
)
def test_a_method_that_is_not_there_is_told_all_that_are(
    path: str, allowed: str, http_sqlite: httpx2.Client
) -> None:
    answer = http_sqlite.put(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.fixture
def file(serve: Serve, sqlite_url: str) -> tuple[httpx2.Client, str]:
    """An uploaded file of ten bytes, and where its content is."""
    http = serve(sqlite_url)
    made = http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"0123456789"})
    return http, f"/v1/files/{made.json()['id']}/content"


@pytest.mark.parametrize(
    ("field", "status", "body", "where"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=9-99", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_a_download_goes_on_where_it_was_broken_off(
    field: str, status: int, body: bytes, where: str | None, file: tuple[httpx2.Client, str]
) -> None:
    http, path = file

    answer = http.get(path, headers={"range": field})

    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers.get("content-range") == where


def test_a_file_has_a_length_and_a_tag_and_is_not_sent_twice(
    file: tuple[httpx2.Client, str],
) -> None:
    http, path = file
    whole = http.get(path)
    tag = whole.headers["etag"]

    again = http.get(path, headers={"if-none-match": f'"other", {tag}'})
    other = http.get(path, headers={"range": "bytes=2-4", "if-range": '"other"'})

    assert (whole.headers["content-length"], whole.headers["accept-ranges"]) == ("10", "bytes")
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (other.status_code, other.content) == (200, b"0123456789")


def test_pages_of_other_origins_may_call_the_api_if_the_operator_says_so(
    serve: Serve, sqlite_url: str
) -> None:
    ours, other = "https://photos.example", "https://elsewhere.example"
    http = serve(sqlite_url, keys="always", cors_origins=frozenset({ours}))
    headers = "authorization, content-type, if-range, x-stainless-lang"
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }

    preflight = http.options("/v1/jobs", headers={"origin": ours, **asks})
    denied = http.options("/v1/jobs", headers={"origin": other, **asks})
    answer = http.get("/v1/jobs", headers={"origin": ours})

    assert (preflight.status_code, denied.status_code) == (200, 400)
    assert preflight.headers["access-control-allow-origin"] == ours
    assert preflight.headers["access-control-allow-headers"] == headers
    assert answer.status_code == 401  # a key is needed all the same
    assert answer.headers["access-control-allow-origin"] == ours
    assert "access-control-allow-credentials" not in answer.headers


def test_no_page_of_another_origin_may_call_the_api_unless_the_operator_says_so(
    http_sqlite: httpx2.Client,
) -> None:
    answer = http_sqlite.get("/v1/jobs", headers={"origin": "https://photos.example"})

    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("body", [b"", b"\n\n", b'{"job": {"name": "x"}}\n'])
def test_a_stream_without_items_is_no_job(body: bytes, http_sqlite: httpx2.Client) -> None:
    answer = http_sqlite.post("/v1/jobs", content=body, headers={"content-type": NDJSON})

    assert answer.status_code == 422
    assert "the stream has no items" in answer.json()["detail"]
    assert http_sqlite.get("/v1/jobs").json()["data"] == []


class TestHead:
    @pytest.mark.parametrize(
        ("path", "status"), [("/v1/models", 200), ("/healthz", 200), ("/v1/jobs/job_x", 404)]
    )
    def test_a_head_is_that_of_a_get_without_its_body(
        self, path: str, status: int, http_sqlite: httpx2.Client
    ) -> None:
        whole, head = http_sqlite.get(path), http_sqlite.head(path)

        assert head.status_code == whole.status_code == status
        assert head.content == b""
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert int(head.headers["content-length"]) > 0

    def test_a_stream_that_does_not_end_is_ended_after_its_head(
        self, http_sqlite: httpx2.Client
    ) -> None:
        item = {"images": ["https://example.com/a.png"]}
        job = http_sqlite.post("/v1/jobs", json={"items": [item]}).json()["id"]

        heads = [http_sqlite.head(f"/v1/jobs/{job}/events") for _ in range(3)]

        assert [head.status_code for head in heads] == [200] * 3
        assert heads[0].headers["content-type"].startswith("text/event-stream")
        assert http_sqlite.get("/healthz").status_code == 200

    def test_a_route_that_has_no_get_has_no_head(self, http_sqlite: httpx2.Client) -> None:
        head = http_sqlite.head("/v1/chat/completions")

        assert head.status_code == 405
        assert head.headers["allow"] == "POST"
        assert http_sqlite.put("/v1/models").headers["allow"] == "GET, HEAD"
