"""What the README and the pages show of requests is accepted as it stands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from api.schemas import JobIn
from db.vocabulary.model_info import ModelInfo, ModelLimits
from db.vocabulary.request_validation import validate_request
from db.vocabulary.requests import ItemIn, effective

ROOT = Path(__file__).parents[2]
CARD = ModelInfo(
    name="m",
    family="idefics2",
    kinds=["caption", "vqa", "classify", "generate", "chat"],
    limits=ModelLimits(max_images=8, max_examples=16, max_new_tokens=64),
    license="Apache-2.0",
    structured=True,
)


def whole(text: str) -> str:
    """With digests written out, where a page shortens them."""
    return re.sub(r"blob:[0-9a-f]*…", f"blob:{'0' * 64}", text)


def shown() -> list[dict[str, Any]]:
    """Every request of the `ask '…'` lines of docs/kinds.md."""
    text = (ROOT / "docs" / "kinds.md").read_text(encoding="utf-8")
    return [json.loads(whole(asked)) for asked in re.findall(r"^ +ask '(.+?)'$", text, re.M | re.S)]


@pytest.mark.parametrize("request_", shown(), ids=lambda request: str(request["kind"]))
def test_every_kind_on_the_page_of_kinds_is_accepted(request_: dict[str, Any]) -> None:
    item = ItemIn.model_validate(request_)

    validate_request(effective({}, item.canonical()), CARD)


def test_the_page_of_kinds_shows_each_kind() -> None:
    assert {request["kind"] for request in shown()} == {*CARD.kinds}


@pytest.mark.parametrize("page", ["README.md", "docs/kinds.md"])
def test_the_job_on_a_page_is_accepted(page: str) -> None:
    text = whole((ROOT / page).read_text(encoding="utf-8"))
    [body] = re.findall(r"-d '(\{\n.+?\})'$", text, re.M | re.S)
    job = json.loads(body)
    defaults = JobIn.model_validate({"defaults": job["defaults"]}).defaults.canonical()

    for item in job["items"]:
        request = ItemIn.model_validate(item).canonical()
        request.pop("custom_id", None)
        validate_request(effective(defaults, request), CARD)
