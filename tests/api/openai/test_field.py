"""OpenAI batches as programs send them: one line's mistake is that line's alone."""

import base64

import openai
import pytest

from tests import pictures
from tests.api.openai.test_batches import check, line
from tests.played import Played

GOOD = base64.b64encode(pictures.plain()).decode()


def picture(url: str, **more: str) -> dict[str, object]:
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    content = [part, {"type": "text", "text": "Describe"}]
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(picture(f"data:image/png;base64,{GOOD[:-1]}"), id="cut by a character"),
        pytest.param(
            picture("data:image/png;base64," + base64.encodebytes(pictures.plain()).decode()),
            id="wrapped at 76",
        ),
        pytest.param(
            picture(f"data:application/octet-stream;base64,{GOOD}"), id="of no image's type"
        ),
        pytest.param(
            picture(f"data:image/png;base64,{GOOD}", detail="medium"), id="an unknown detail"
        ),
    ],
)
def test_a_bad_image_of_one_line_does_not_fail_its_batch(
    body: dict[str, object],
    client: openai.OpenAI,
    played: Played,
) -> None:
    good = picture(f"data:image/png;base64,{GOOD}")
    lines = [line("a", **good), line("b", **body), line("c", **good)]

    batch = check(client, played, lines)

    assert batch.status != "failed"
    assert batch.errors is None
