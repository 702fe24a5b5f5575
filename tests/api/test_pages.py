"""The interactive pages: without the internet, and under a policy of their own."""

import re

import httpx2
import pytest

PAGES = ["/docs", "/redoc"]


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_a_page_loads_comes_from_this_service(
    http_sqlite: httpx2.Client, page: str
) -> None:
    text = http_sqlite.get(page).text
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', text)

    assert len(loaded) >= 2
    for address in loaded:
        assert not re.match(r"[a-z]+:|/", address), "relative, so that a proxy may add a path"
        assert http_sqlite.get(f"/{address}").status_code == 200
    assert "<script>" not in text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_allows_nothing_else_and_is_in_no_frame(
    http_sqlite: httpx2.Client, page: str
) -> None:
    headers = http_sqlite.get(page).headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )

    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["nothing.js", "..%2F__init__.py", "%2Fetc%2Fpasswd"])
def test_no_other_file_is_served(http_sqlite: httpx2.Client, name: str) -> None:
    assert http_sqlite.get(f"/docs/{name}").status_code == 404


def test_a_key_can_be_entered(http_sqlite: httpx2.Client) -> None:
    document = http_sqlite.get("/openapi.json").json()

    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/v1/jobs"]["get"]["security"][0] == {"key": []}
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_scripts_have_the_type_that_browsers_demand(http_sqlite: httpx2.Client) -> None:
    answers = [http_sqlite.get(f"/docs/{name}") for name in ("start.js", "swagger-ui-bundle.js")]

    assert {each.headers["content-type"] for each in answers} == {"text/javascript; charset=utf-8"}
