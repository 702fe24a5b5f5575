"""Alternative text by any family: the wording, the linter's word, one more try, and no more."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from db.vocabulary.errors import PromptTooLong
from db.vocabulary.model_info import ModelInfo, ModelLimits
from tests.workers.answering import generated
from workers import families
from workers.decoding.generation import LogprobRecorder, confidence
from workers.families import alttext
from workers.families.base import Answer, Prepared
from workers.settings import EngineSettings

PICTURE = Image.new("RGB", (32, 32), "red")
CARD = ModelInfo(
    name="said",
    family="said",
    kinds=["caption"],
    limits=ModelLimits(max_images=1, max_new_tokens=60),
    license="",
    languages=["English", "French"],
)


class Said:
    """A family that says what it is told to, one text after the other, and notes the prompts."""

    slot_engine = target_size = None

    def __init__(self, *texts: str, card: ModelInfo = CARD, confidence: float = 0.9) -> None:
        self.card, self._texts, self._confidence = card, list(texts), confidence
        self.asked: list[dict[str, Any]] = []

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        assert len(images) == 1
        return Prepared(request, tokens=len(str(request)), inputs=None)

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        self.asked += [item.request for item in batch]
        return [
            Answer(self._texts.pop(0), "stop", 10, 5, "t/1", confidence=self._confidence)
            for _ in batch
        ]


def with_picture(use: Callable[[Sequence[Image.Image]], Prepared]) -> Prepared:
    """As the engine's loader reads and decodes an item's images."""
    return use([PICTURE])


def draft(family: Said, **alt_text: Any) -> Answer:
    """One answer to a request for alternative text."""
    request = {"kind": "caption", "images": ["x"], "alt_text": alt_text}
    return generated(family, alttext.prepare(family, request, with_picture))


def told(answer: Answer) -> dict[str, Any]:
    assert answer.alt_text
    return answer.alt_text


class TestTheWording:
    def test_the_prompt_has_the_context_of_the_page_and_the_target_length(self) -> None:
        family = Said("A red square.")

        draft(family, caption="Our logo", heading="About us", target_length=80, page="about.html")

        [asked] = family.asked
        assert "Our logo" in asked["prompt"]
        assert "About us" in asked["prompt"]
        assert "about 80 characters" in asked["prompt"]
        assert "about.html" not in asked["prompt"]
        assert "alt_text" not in asked

    def test_of_a_link_it_asks_where_it_leads(self) -> None:
        family = Said("To the shop")

        draft(family, role="functional", destination="Shop (shop.html)")

        assert "where the link leads" in family.asked[0]["prompt"]
        assert "Shop (shop.html)" in family.asked[0]["prompt"]

    def test_braces_in_a_page_s_text_are_braces(self) -> None:
        family = Said("A red square.")

        draft(family, heading="{images} {0} {target_length}")

        assert "{images} {0} {target_length}" in family.asked[0]["prompt"]

    def test_a_base_model_is_led_to_the_place_where_the_text_would_be(self) -> None:
        family = Said("A red square.", card=CARD.model_copy(update={"style": "plain"}))

        draft(family)

        assert family.asked[0]["prompt"].endswith("Alternative text:")

    def test_a_model_that_knows_its_own_wordings_only_is_asked_for_a_plain_caption(self) -> None:
        card = CARD.model_copy(update={"follows_instructions": False})
        family = Said("an image of a red square", card=card)

        answer = draft(family, caption="Our logo", long_description=True)

        assert family.asked == [{"kind": "caption", "images": ["x"]}]
        assert answer.text == "A red square"

    def test_a_draft_of_such_a_model_for_a_link_has_issues(self) -> None:
        card = CARD.model_copy(update={"follows_instructions": False})

        answer = draft(Said("A red square", card=card), role="functional")

        assert [one["code"] for one in told(answer)["issues"]] == ["describes"]
        assert told(answer)["confidence"] == 0.45


class TestTheLanguage:
    @pytest.mark.parametrize(
        ("known", "wanted", "asked", "expected"),
        [
            (["English", "French"], "French", "French", "French"),
            (["English"], "French", None, "English"),
            ([], "French", "French", "French"),
            (["English"], None, None, "English"),
            ([], None, None, None),
        ],
    )
    def test_the_language_of_the_page_is_requested_of_models_that_have_it(
        self, known: list[str], wanted: str | None, asked: str | None, expected: str | None
    ) -> None:
        family = Said("Un carré.", card=CARD.model_copy(update={"languages": known}))
        request: dict[str, Any] = {"kind": "caption", "images": ["x"], "alt_text": {}}
        if wanted:
            request["language"] = wanted

        answer = generated(family, alttext.prepare(family, request, with_picture))

        assert family.asked[0].get("language") == asked
        assert told(answer)["language"] == expected


class TestRewriting:
    def test_a_good_draft_is_left_alone(self) -> None:
        family = Said("A red square on white.")

        answer = draft(family)

        assert answer.text == "A red square on white."
        assert told(answer) == {
            "issues": [],
            "rewritten": False,
            "confidence": 0.9,
            "language": "English",
            "objections": [],  # for readers of release 0.1, as is the next
            "certainty": 0.9,
        }
        assert len(family.asked) == 1

    def test_a_draft_with_issues_is_rewritten_once_with_the_issues_in_the_prompt(self) -> None:
        family = Said("IMG_1234.jpg", "A red square.")

        answer = draft(family)

        assert answer.text == "A red square."
        assert told(answer)["rewritten"] is True
        assert told(answer)["issues"] == []
        assert "IMG_1234.jpg" in family.asked[1]["prompt"]
        assert "is the name of a file" in family.asked[1]["prompt"]
        assert answer.completion_tokens == 10

    def test_the_first_is_kept_if_the_second_is_no_better(self) -> None:
        long = "A red square " + "and a very long story about it " * 8

        answer = draft(Said(long.strip(), "IMG_1234.jpg"))

        assert answer.text == long.strip()
        assert told(answer)["rewritten"] is False

    def test_nothing_is_rewritten_twice(self) -> None:
        family = Said("photo", "picture", "never asked for")

        answer = draft(family)

        assert len(family.asked) == 2
        assert [one["code"] for one in told(answer)["issues"]] == ["placeholder"]
        assert told(answer)["confidence"] == 0.45

    def test_a_caller_can_do_without(self) -> None:
        family = Said("photo")

        draft(family, rewrite=False)

        assert len(family.asked) == 1

    def test_what_repeats_the_caption_is_rewritten(self) -> None:
        family = Said("Our logo.", "A red square.")

        assert draft(family, caption="our logo").text == "A red square."

    def test_a_draft_is_kept_if_its_issues_do_not_fit_into_the_rewriting_prompt(self) -> None:
        class Short(Said):
            def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
                if "earlier draft" in request["prompt"]:
                    raise PromptTooLong("too long")
                return super().prepare(request, images)

        answer = draft(Short("a red square and"))

        assert answer.text == "A red square and"
        assert [one["code"] for one in told(answer)["issues"]] == ["unfinished"]


class TestLongDescriptions:
    def test_they_are_a_text_of_their_own(self) -> None:
        family = Said("A red square.", "this image shows a red square with soft corners.")

        answer = draft(family, long_description=True)

        assert answer.text == "A red square."
        assert told(answer)["long_description"] == "A red square with soft corners."
        assert "in detail" in family.asked[1]["prompt"]


class TestOverRealFamilies:
    def test_other_requests_pass_untouched(self) -> None:
        family = families.load(EngineSettings(model="demo", torch_threads=1))
        request = {"kind": "caption", "images": ["x"]}

        made = alttext.prepare(family, request, with_picture)

        assert made.follow_up is None
        assert generated(family, made) == generated(family, family.prepare(request, [PICTURE]))

    def test_the_demonstration_model_drafts_with_a_certainty_of_its_own(self) -> None:
        family = families.load(EngineSettings(model="demo", torch_threads=1))
        request = {"kind": "caption", "images": ["x"], "alt_text": {"heading": "Anything"}}

        answer = generated(family, alttext.prepare(family, request, with_picture))

        assert answer.template == "alt-text/1 caption/1"
        assert told(answer)["language"] == "English"
        assert 0.0 < told(answer)["confidence"] <= 1.0
        assert answer.text[0].isupper()
        assert "confidence" not in answer.record("caption")
        assert answer.record("caption")["alt_text"] == told(answer)

    def test_echo_repeats_its_prompt_and_reports_no_confidence(self) -> None:
        family = families.load(EngineSettings(model="echo"))
        request = {"kind": "caption", "images": ["x"], "alt_text": {"rewrite": False}}

        answer = generated(family, alttext.prepare(family, request, with_picture))

        assert "Write alternative text" in answer.text
        assert told(answer)["confidence"] == 1.0

    def test_confidence_is_that_of_the_tokens_taken_whatever_the_batch(self) -> None:
        family = families.load(EngineSettings(model="demo", torch_threads=1))
        request = {"kind": "caption", "images": ["x"]}
        pictures = [Image.new("RGB", (64, 40), color) for color in ("red", "blue", "gray")]
        items = [family.prepare(request, [picture]) for picture in pictures]

        alone = [family.generate([item])[0].confidence for item in items]
        together = [answer.confidence for answer in family.generate(items)]

        assert together == pytest.approx(alone, abs=1e-4)
        nothing_sure = LogprobRecorder()
        nothing_sure(torch.zeros(1, 1), torch.full((1, 3), float("-inf")))
        assert confidence(nothing_sure.logprobs()[0]) is None
        sampled = {**request, "options": {"do_sample": True, "seed": 1}}
        [drawn] = family.generate([family.prepare(sampled, pictures[:1])])
        assert drawn.confidence is None
        assert replace(drawn, confidence=0.5) == drawn
