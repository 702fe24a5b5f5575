"""Structured answers: JSON of a schema, one of some choices, a match of a pattern."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from db.vocabulary.errors import ItemRefused
from db.vocabulary.schema_checks import schema_text
from tests.workers.families import cases
from workers.decoding import generation
from workers.decoding.grammar import Grammars
from workers.families.base import Answer, Prepared
from workers.families.family import TransformersFamily
from workers.families.loaded import STRUCTURED_TOKENS

Load = Callable[[str], TransformersFamily]
PICTURES = cases.pictures()
#: Of each architecture's way to run: continuous batching, with cross-attention, and `generate`.
NAMES = ("idefics2", "idefics-instruct", "qwen2-vl", "qwen3.5", "pixtral")
SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_red": {"type": "boolean"},
        "seen": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["shape", "count", "is_red", "seen"],
}
#: It compiles, and its automaton grows without end while an answer is generated.
EXPLODING = r"(([a-z]{1,200}){1,200}){1,200}"


def asked(family: TransformersFamily, number: int = 0, **fields: Any) -> Prepared:
    options = {"max_new_tokens": 60, **fields.pop("options", {})}
    options = {name: value for name, value in options.items() if value is not None}
    request = {"kind": "vqa", "question": "What is it?", "options": options, **fields}
    return family.prepare(request, [PICTURES[number]])


def with_schema(family: TransformersFamily, number: int = 0, **options: Any) -> Prepared:
    return asked(family, number, schema=schema_text(SCHEMA), options=options)


def in_slots(family: TransformersFamily, items: Sequence[Prepared]) -> list[Any]:
    engine = family.slot_engine
    assert engine
    ended = {id(item): answer for item, answer in engine.admit(items)}
    while len(ended) < len(items):
        ended |= {id(item): answer for item, answer in engine.decode_step()}
    return [ended[id(item)] for item in items]


def tokens(answer: Answer) -> tuple[str, int, str]:
    return answer.text, answer.completion_tokens, answer.finish_reason


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_with_a_schema_is_json_that_it_describes(name: str, loaded_family: Load) -> None:
    family = loaded_family(name)

    [answer] = family.generate([with_schema(family)])

    assert answer.finish_reason != "length"
    assert answer.data == json.loads(answer.text)
    assert list(answer.data) == list(SCHEMA["properties"])  # in the order of the schema
    assert answer.data["shape"] in ("circle", "square")
    assert 0 <= answer.data["count"] <= 99
    assert isinstance(answer.data["is_red"], bool)
    assert {*answer.data["seen"]} <= {"a", "b"}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_with_choices_is_one_of_them_and_one_with_a_pattern_matches_it(
    name: str, loaded_family: Load
) -> None:
    family = loaded_family(name)
    choices = ["red", "light red", "a|b (c)*", "été"]

    answers = [
        family.generate([asked(family, n, choices=choices)])[0].data for n in range(len(PICTURES))
    ]
    [matched] = family.generate([asked(family, regex=r"^[A-F]{2}-\d{3}$")])

    assert {*answers} <= {*choices}
    assert re.fullmatch(r"[A-F]{2}-\d{3}", matched.text)
    assert matched.data == matched.text


@pytest.mark.parametrize("name", ["idefics2", "idefics3", "idefics-instruct", "qwen2-vl"])
def test_continuous_batching_gives_the_structured_answers_of_generate_token_for_token(
    name: str, loaded_family: Load
) -> None:
    family = loaded_family(name)
    drawn = {"do_sample": True, "temperature": 1.5}
    items = [
        with_schema(family, 0),
        asked(family, 1),
        with_schema(family, 1, **drawn, seed=3),
        asked(family, 2, choices=["one", "two", "three"]),
        with_schema(family, 2, repetition_penalty=1.3),
        asked(family, 3, regex="[a-z]{4}", options={**drawn, "seed": 4}),
    ]

    together = in_slots(family, items)
    alone = [in_slots(family, [item])[0] for item in items]
    generated = [family.generate([item])[0] for item in items]

    assert [*map(tokens, together)] == [*map(tokens, generated)]
    assert [*map(tokens, alone)] == [*map(tokens, generated)]
    assert [each.data for each in together] == [each.data for each in generated]


def test_greedy_structured_answers_are_those_of_transformers_with_the_same_masks(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics3")
    loaded, item = family.loaded, with_schema(family)

    class Masked(LogitsProcessor):  # type: ignore[misc]
        """One token after the other, all of them asked of the library each time."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            grammar = loaded.grammar(item.request)
            assert grammar
            grammar.matcher.consume_tokens(input_ids[0, item.tokens :].tolist())
            allowed = grammar.matcher.compute_bitmask()
            masked = torch.full_like(scores, -torch.inf)
            for token in range(scores.shape[-1]):
                if token < 8 * len(allowed) and allowed[token // 8] >> token % 8 & 1:
                    masked[0, token] = scores[0, token]
            return masked

    [expected] = generation.generate(
        loaded.model,
        family.architecture.collate([item.inputs]),
        loaded.options(item.request),
        loaded.end_tokens,
        LogitsProcessorList([Masked()]),
        loaded.tokenizer,
    )
    engine = family.slot_engine
    assert engine
    [sequence] = engine.generate([item])

    assert sequence.tokens == expected


def test_neighbours_without_a_grammar_answer_as_they_do_alone(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    free = [asked(family, n) for n in range(3)]
    alone = [*map(tokens, in_slots(family, free))]

    mixed = in_slots(family, [with_schema(family), *free, asked(family, choices=["x", "y"])])

    assert [*map(tokens, mixed[1:4])] == alone


def test_a_batch_of_generate_may_hold_answers_of_different_structures(loaded_family: Load) -> None:
    family = loaded_family("qwen3.5")
    items = [with_schema(family), asked(family, 1, choices=["x", "y"]), asked(family, regex="[ab]")]

    together = family.generate(items)

    assert together == [family.generate([item])[0] for item in items]


def test_an_answer_that_is_cut_says_so_and_never_claims_to_be_valid(loaded_family: Load) -> None:
    family = loaded_family("idefics2")

    for answer in (
        in_slots(family, [with_schema(family, max_new_tokens=5)])[0],
        family.generate([with_schema(family, max_new_tokens=5)])[0],
    ):
        assert answer.finish_reason == "length"
        assert answer.data is None
        assert "data" not in answer.record("vqa")


def test_an_answer_that_becomes_too_complex_fails_alone(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    items = [asked(family, 0), asked(family, regex=EXPLODING), asked(family, 1, choices=["x", "y"])]

    [first, failed, last] = in_slots(family, items)

    assert tokens(first) == tokens(family.generate(items[:1])[0])
    assert isinstance(failed, ItemRefused)
    assert "cannot follow what the request asks for" in str(failed)
    assert last.data in ("x", "y")
    with pytest.raises(ItemRefused, match="cannot follow what the request asks for"):
        family.generate(items[1:2])


@pytest.mark.parametrize(("pattern", "told"), [(r"\s{2}a", "white space"), (r"a\n", "white space")])
def test_an_answer_that_cannot_be_kept_as_it_is_claims_nothing(
    pattern: str, told: str, loaded_family: Load
) -> None:
    family = loaded_family("idefics2")
    item = asked(family, regex=pattern)

    [failed] = in_slots(family, [item])

    assert isinstance(failed, ItemRefused)
    assert told in str(failed)
    with pytest.raises(ItemRefused, match=told):
        family.generate([item])


def test_a_prompt_that_leaves_room_for_a_usual_answer_is_taken_whatever_the_structure(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics2")
    context, usual = family.loaded.context, family.card.defaults["max_new_tokens"]
    prompt = "a " * (context - usual - 300)

    item = asked(family, question=prompt, choices=["x", "y"], options={"max_new_tokens": None})

    assert item.tokens > context - family.loaded.options(item.request)["max_new_tokens"]
    assert family.loaded.most_tokens(item.request, item.tokens) <= context - item.tokens
    assert family.generate([item])[0].data in ("x", "y")


def test_a_structured_answer_that_asks_for_no_length_has_room_to_be_complete(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics2")
    usual = family.loaded.options({"kind": "vqa"})["max_new_tokens"]
    limit = family.card.limits.max_new_tokens

    structured = family.loaded.options({"kind": "vqa", "regex": "a"})["max_new_tokens"]
    asked_for = family.loaded.options({"regex": "a", "options": {"max_new_tokens": 3}})

    assert usual <= structured <= limit
    assert structured == max(usual, min(limit, family.loaded.context // 2, STRUCTURED_TOKENS))
    assert asked_for["max_new_tokens"] == 3


def test_options_of_the_checkpoint_that_would_cut_an_answer_do_not_apply(
    loaded_family: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = loaded_family("idefics2")
    [expected] = family.generate([with_schema(family)])
    config = family.loaded.model.generation_config

    with monkeypatch.context() as patched:
        for name, value in {
            "no_repeat_ngram_size": 1,
            "min_new_tokens": 90,
            "num_beams": 2,
        }.items():
            patched.setattr(config, name, value)
        [answer] = family.generate([with_schema(family)])

    assert answer == expected


def test_a_vocabulary_that_cannot_say_json_gives_no_structured_answers(loaded_family: Load) -> None:
    class Slow:
        """A tokenizer that is not a fast one."""

    assert Grammars.for_tokenizer(Slow(), [1]) is None
    assert loaded_family("idefics2").card.structured
