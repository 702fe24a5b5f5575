"""Options of generation, on models whose every token matters."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.workers.families import cases, tiny
from workers import families
from workers.decoding import seeded_sampling
from workers.decoding.penalties import AnswerPenalty
from workers.families.base import Family
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

Load = Callable[[str], TransformersFamily]
PICTURES = cases.pictures()


@pytest.fixture(scope="module")
def demo() -> Family:
    return families.load(EngineSettings(model="demo"))


def caption(family: Family, picture: int = 0, **options: Any) -> Any:
    return family.prepare({"kind": "caption", "options": options}, [PICTURES[picture]])


@pytest.mark.parametrize("name", tiny.CHECKPOINTS)
def test_a_seed_draws_the_same_answer_whatever_its_batch(name: str, loaded_family: Load) -> None:
    family = loaded_family(name)
    drawn = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 8}
    items = [caption(family, n % 4, seed=100 + n, **drawn) for n in range(6)]

    together, backwards = family.generate(items), family.generate(items[::-1])[::-1]
    alone = [family.generate([item])[0] for item in items]

    assert together == alone == backwards
    assert len({answer.text for answer in alone}) == len(items)
    assert [answer.seed for answer in alone] == [100 + n for n in range(6)]


def test_an_answer_sampled_without_a_seed_names_the_seed_that_repeats_it(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics2")
    options: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 8}

    [answer] = family.generate([caption(family, **options)])
    [again] = family.generate([caption(family, **options, seed=answer.seed)])

    assert answer.seed is not None
    assert again == answer


def test_tokens_are_sampled_with_the_probabilities_of_the_softmax() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
    draws = 4000

    noisy = seeded_sampling.processors({"temperature": 0.8}, range(draws))(
        torch.zeros((draws, 1), dtype=torch.long), scores.repeat(draws, 1)
    )
    seen = Counter(noisy.argmax(-1).tolist())

    expected = (scores / 0.8).softmax(-1)
    shares = torch.tensor([seen[token] / draws for token in range(5)])
    assert float((shares - expected).abs().max()) < 0.02
    assert seen[4] == 0


@pytest.mark.parametrize(
    ("options", "allowed"), [({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"top_k": 0}, None)]
)
def test_top_k_and_top_p_leave_only_the_most_probable_tokens(
    options: dict[str, Any], allowed: set[int] | None
) -> None:
    scores = torch.tensor([2.0, 1.5, 0.0, -1.0]).repeat(2000, 1)

    noisy = seeded_sampling.processors(options, range(2000))(torch.zeros((2000, 1)), scores)

    assert {*noisy.argmax(-1).tolist()} == (allowed or {0, 1, 2, 3})


def test_penalties_count_the_tokens_of_the_answer_and_not_those_of_the_prompt() -> None:
    scores = torch.zeros((2, 5))
    ids = torch.tensor([[4, 4, 4, 1, 1, 2], [4, 4, 4, 3, 3, 3]])
    [penalty] = AnswerPenalty.for_options({"presence_penalty": 1.0, "frequency_penalty": 0.5}, 3)

    assert penalty(ids, scores).tolist() == [[0, -2, -1.5, 0, 0], [0, 0, 0, -2.5, 0]]
    assert penalty(ids[:, :3], scores).tolist() == scores.tolist()
    assert AnswerPenalty.for_options({"presence_penalty": 0, "frequency_penalty": None}, 3) == []


def test_a_penalty_lets_an_answer_repeat_itself_less(loaded_family: Load) -> None:
    family = loaded_family("idefics2")

    def distinct(**options: Any) -> int:
        [ids] = family.generator.generate_ids([caption(family, max_new_tokens=24, **options)])
        return len({*ids})

    assert distinct(frequency_penalty=2.0) > distinct(frequency_penalty=-2.0)


def test_an_answer_ends_before_a_stop_string(demo: Family, loaded_family: Load) -> None:
    family = loaded_family("idefics3")
    [whole] = family.generate([caption(family, max_new_tokens=12)])
    stop = whole.text[4:6]

    items = [caption(family, n, max_new_tokens=12, stop=[stop]) for n in range(4)]
    answers = family.generate(items)

    assert answers[0].text == whole.text[: whole.text.index(stop)].strip()
    assert answers[0].finish_reason == "stop"
    assert 0 < answers[0].completion_tokens < 12
    assert not any(stop in answer.text for answer in answers)
    assert answers == [family.generate([item])[0] for item in items]


@pytest.mark.parametrize("beams", [1, 2])
def test_t32_a_stop_string_in_the_prompt_or_in_a_token_that_is_not_shown_ends_nothing(
    beams: int, loaded_family: Load
) -> None:
    family = loaded_family("idefics3")
    end = family.loaded.tokenizer.convert_ids_to_tokens(family.loaded.end_tokens.ids[0])
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": beams}
    [whole] = family.generate([caption(family, **options)])

    [answer] = family.generate([caption(family, **options, stop=["ssistant:", end])])

    assert (answer.text, answer.completion_tokens) == (whole.text, whole.completion_tokens)


@pytest.mark.parametrize("name", ["idefics-base", "idefics2", "idefics3"])
def test_a_stop_string_may_be_the_space_and_the_word_that_an_answer_begins_with(
    name: str, loaded_family: Load
) -> None:
    family = loaded_family(name)
    items = [caption(family, n, max_new_tokens=6) for n in range(8)]
    begins = [
        family.loaded.tokenizer.convert_ids_to_tokens(family.generator.generate_ids([i])[0])
        for i in items
    ]
    number, word = next(
        (number, tokens[0][1:])
        for number, tokens in enumerate(begins)
        if tokens[0][0] in "▁Ġ" and tokens[0][1:].isalpha()
    )
    stopped = caption(family, number, max_new_tokens=6, stop=[f" {word}"])
    other = caption(family, (number + 1) % 8, max_new_tokens=6, stop=[f" {word}"])

    [answer] = family.generate([stopped])

    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("", "stop", 1)
    assert family.generate([stopped, other])[0] == answer


def test_the_prompt_is_returned_only_if_it_is_asked_for(demo: Family) -> None:
    [asked] = demo.generate([caption(demo, echo=True)])
    [silent] = demo.generate([caption(demo)])

    assert asked.prompt == "User:<image>Describe the image.<end_of_utterance>\nAssistant:"
    assert silent.prompt is None
    assert "prompt" not in silent.record("caption")
    assert "Describe" not in silent.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_new_tokens": 2}, "length"), ({"max_new_tokens": 60}, "end_of_utterance")],
)
def test_the_finish_reason_and_the_token_counts_are_returned(
    demo: Family, options: dict[str, int], reason: str
) -> None:
    [answer] = demo.generate([caption(demo, **options)])

    assert answer.finish_reason == reason
    assert answer.completion_tokens <= options["max_new_tokens"]
    assert answer.prompt_tokens == demo.prepare({"kind": "caption"}, [PICTURES[0]]).tokens


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 9},
        {"num_beams": 3, "length_penalty": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["idefics-instruct", "idefics2", "idefics3", "llava"])
def test_every_option_gives_a_batch_the_answers_of_its_items_alone(
    name: str, options: dict[str, Any], loaded_family: Load
) -> None:
    family = loaded_family(name)
    questions = ["Why?", "What is to be seen in this picture, and where is it?", "Who"]
    items = [
        family.prepare(
            {"kind": "vqa", "question": question, "options": {"max_new_tokens": 10, **options}},
            PICTURES[: 1 + number],
        )
        for number, question in enumerate(questions)
    ]

    assert family.generate(items) == [family.generate([item])[0] for item in items]
