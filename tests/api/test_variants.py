"""What a job does when the variant of its model changes, over HTTP."""

import httpx2
import pytest

from tests.api.test_answer_issues import BODY


@pytest.mark.parametrize(
    ("sent", "kept"), [({}, "pause"), ({"model_changed": "continue"}, "continue")]
)
def test_a_job_says_what_it_does_when_its_model_changes(
    http_sqlite: httpx2.Client, sent: dict[str, str], kept: str
) -> None:
    job = http_sqlite.post("/v1/jobs", json={**BODY, **sent}).json()

    assert (job["model_changed"], job["variant"]) == (kept, None)


def test_another_word_for_it_is_refused(http_sqlite: httpx2.Client) -> None:
    refused = http_sqlite.post("/v1/jobs", json={**BODY, "model_changed": "stop"})

    assert refused.status_code == 422
    assert "model_changed" in refused.text
