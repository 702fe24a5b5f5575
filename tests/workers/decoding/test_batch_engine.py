"""Slots say what `generate` says, whoever else is there, whoever was there before."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.vocabulary.errors import EngineError, RequestError
from tests.workers.answering import ids_in_slots, in_slots
from tests.workers.families import cases
from workers import families
from workers.decoding.kv_cache import SlotConfig
from workers.decoding.tensor_cache import TensorCache
from workers.families import batching, selfcheck
from workers.families.base import Answer, Prepared, SlotFull
from workers.families.batching import ContinuousBatcher
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

Load = Callable[[str], TransformersFamily]
#: Each reads pictures in another way.
FAMILIES = ["idefics-base-resampler", "idefics-base", "idefics2", "idefics2-splitting", "idefics3"]
PICTURES = cases.pictures()


def remade(family: TransformersFamily, **changes: Any) -> ContinuousBatcher:
    """Other slots of a family, empty."""
    assert family.slot_engine
    text_decoder = family.architecture.text_decoder()
    assert not isinstance(text_decoder, str)
    room: SlotConfig = replace(family.slot_engine.engine.config, **changes)
    return batching.build(family.loaded, family.architecture, text_decoder, room)


def asked(family: TransformersFamily, pictures: Sequence[int] = (0,), **request: Any) -> Prepared:
    """A prompt with pictures, and options beside it."""
    options = {"max_new_tokens": 8, **request.pop("options", {})}
    whole = {"kind": "generate", "prompt": "Describe", **request, "options": options}
    return family.prepare(whole, [PICTURES[number] for number in pictures])


def mixed(family: TransformersFamily) -> list[Prepared]:
    """None, one and three pictures, short and long prompts, answers of one to twelve tokens.

    Two of them have a structure.
    """
    return [
        asked(family),
        asked(family, (), prompt="Once upon a time"),
        asked(family, (1, 2, 3), prompt="Compare these", options={"max_new_tokens": 12}),
        asked(family, (4,), options={"max_new_tokens": 1}),
        asked(family, (5,), prompt="What is in this image? " * 8, options={"max_new_tokens": 5}),
        asked(family, (0, 1), prompt="And here?", choices=["a cat", "a car", "none"]),
        asked(family, (6,), prompt="a", regex="[a-z]{2,9}", options={"max_new_tokens": 9}),
    ]


def generated(family: TransformersFamily, items: Sequence[Prepared]) -> list[list[int]]:
    return [family.generator.generate_ids([item])[0] for item in items]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("async_readback", [False, True])
@pytest.mark.parametrize("static_shapes", [False, True])
def test_any_mixture_in_few_slots_equals_generate_on_each_item_alone(
    name: str, static_shapes: bool, async_readback: bool, loaded_family: Load
) -> None:
    family = loaded_family(name)
    items = mixed(family)
    slots = remade(family, slots=3, static_shapes=static_shapes, async_readback=async_readback)

    said = [ids_in_slots(slots, order) for order in (items, items[::-1])]

    assert said[0] == said[1][::-1] == generated(family, items)


@given(order=st.permutations(range(7)), at_once=st.integers(1, 4), count=st.integers(1, 5))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whenever_items_join_and_leave_their_answers_are_their_own(
    order: list[int], at_once: int, count: int, loaded_family: Load
) -> None:
    family = loaded_family("idefics2")
    items = mixed(family)
    alone = generated(family, items)

    said = ids_in_slots(remade(family, slots=count), [items[n] for n in order], at_once)

    assert said == [alone[n] for n in order]


def test_a_slot_that_held_a_longer_prompt_leaks_nothing_of_it(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    long, short = asked(family, (1, 2, 3), prompt="x " * 60), asked(family)
    slots = remade(family, slots=1)

    said = ids_in_slots(slots, [long, short])

    assert said[1] == generated(family, [short])[0]


def test_an_answer_that_ends_with_its_first_token_leaves_at_once(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    item = asked(family)
    first = generated(family, [item])[0][0]
    slots = remade(family, slots=2)
    slots.engine.sampler.end_ids = frozenset({first})

    [(_, answer)] = slots.admit([item])

    assert answer.completion_tokens == 1


RULES: list[dict[str, Any]] = [
    {"min_new_tokens": 8},
    {"repetition_penalty": 1.8},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7},
    {"do_sample": True, "seed": 6, "temperature": 1.2, "frequency_penalty": -1.0},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 4},
    {"do_sample": True, "seed": 3},
    {"do_sample": True, "seed": 4, "temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    {"do_sample": True, "seed": 5, "repetition_penalty": 1.3},
]


@pytest.mark.parametrize("name", ["idefics-instruct", "idefics2"])
@pytest.mark.parametrize("async_readback", [False, True])
def test_each_item_has_its_own_rules_and_draws_by_its_own_seed(
    name: str, async_readback: bool, loaded_family: Load
) -> None:
    family = loaded_family(name)
    items = [asked(family, (n % len(PICTURES),), options=rules) for n, rules in enumerate(RULES)]

    said = ids_in_slots(remade(family, slots=3, async_readback=async_readback), items)

    assert said == generated(family, items)


def test_a_stop_string_ends_an_answer_before_it(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    whole = in_slots(remade(family), [asked(family)])[0].text
    stop = whole[2:5]
    item = asked(family, options={"stop": [stop]})

    [answer] = in_slots(remade(family), [item])

    assert answer == replace(family.generate([item])[0], path="slots")
    assert answer.text == whole[: whole.index(stop)].strip()
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("async_readback", [False, True])
def test_a_stream_repeats_the_answer_so_far(async_readback: bool, loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    told: list[str] = []
    item = replace(asked(family), on_text=told.append)

    [answer] = in_slots(remade(family, async_readback=async_readback), [item])

    assert len(told) > 1
    assert all(answer.text.startswith(text) for text in told)


def test_the_certainty_of_an_answer_is_that_of_generate(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    items = [asked(family), asked(family, (1,), options={"do_sample": True, "seed": 1})]

    sure, drawn = in_slots(remade(family), items)

    penalised = asked(family, options={"repetition_penalty": 1.8})
    [strict] = in_slots(remade(family), [penalised])

    assert sure.confidence == pytest.approx(family.generate(items[:1])[0].confidence, abs=1e-4)
    assert strict.confidence == pytest.approx(family.generate([penalised])[0].confidence, abs=1e-4)
    assert drawn.confidence is None


def test_what_is_padded_behind_a_stop_string_is_no_part_of_the_certainty(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics2")

    def item(picture: int, **options: Any) -> Prepared:
        return asked(family, (picture,), options={"max_new_tokens": 20, **options})

    texts = [family.generate([item(n)])[0].text for n in range(6)]
    ends, goes_on, stop = next(
        (n, m, text[2:5])
        for n, text in enumerate(texts)
        for m, other in enumerate(texts)
        if text[2:5] not in other
    )
    short, long = item(ends, stop=[stop]), item(goes_on, stop=[stop])

    alone, beside = family.generate([short])[0], family.generate([short, long])[0]
    [slot] = in_slots(remade(family), [short])

    assert alone.finish_reason == "stop"
    assert beside.confidence == pytest.approx(alone.confidence, abs=1e-5)
    assert slot.confidence == pytest.approx(alone.confidence, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "fits"),
    [({}, True), ({"num_beams": 2}, False), ({"max_new_tokens": 1_000}, True)],
)
def test_beams_use_generate_and_long_answers_start_in_a_slot(
    options: dict[str, Any], fits: bool, loaded_family: Load
) -> None:
    family = loaded_family("idefics2")

    assert remade(family, length=64).accepts(asked(family, options=options)) is fits


def test_a_prompt_that_leaves_too_little_of_a_slot_uses_generate(
    loaded_family: Load,
) -> None:
    family = loaded_family("idefics2")
    item = asked(family, prompt="What is in this image? " * 4, options={"max_new_tokens": 500})

    assert remade(family, length=2 * item.tokens).accepts(item)
    assert not remade(family, length=item.tokens + 8).accepts(item)


def test_an_answer_that_outgrows_its_slot_is_handed_to_generate(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    items = [
        asked(family, options={"max_new_tokens": 100, "min_new_tokens": 100}),
        asked(family, options={"max_new_tokens": 4}),
    ]
    slots = remade(family, length=items[0].tokens + 40)
    assert all(map(slots.accepts, items))

    over = slots.admit(items)
    while len(over) < 2:
        over += slots.decode_step()
    outcomes = {id(item): outcome for item, outcome in over}

    assert isinstance(outcomes[id(items[0])], SlotFull)
    assert isinstance(outcomes[id(items[1])], Answer)


def test_more_images_than_a_slot_holds_use_generate(loaded_family: Load) -> None:
    family = loaded_family("idefics-base")
    assert family.slot_engine

    assert family.slot_engine.accepts(asked(family, range(8)))
    examples = [{"image": "x", "text": "a dog"}]
    assert not family.slot_engine.accepts(asked(family, [*range(8), 0], examples=examples))


def shots(family: TransformersFamily, picture: int) -> Prepared:
    """An item after three solved examples, which are the same for all."""
    examples = [{"image": "x", "text": text} for text in ("a dog", "a red wall", "two kittens")]
    return asked(family, (picture, 5, 6, 7), examples=examples)


@pytest.mark.parametrize("name", ["idefics-base-resampler", "idefics2", "idefics2-base"])
def test_examples_of_a_job_are_read_once_and_change_nothing(
    name: str, loaded_family: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = loaded_family(name)
    items = [shots(family, picture) for picture in range(4)]
    slots = remade(family, slots=1)
    read: list[int] = []
    reading = slots.engine.decoder.prefill

    def counting(rest: Any, *others: Any) -> torch.Tensor:
        read.append(len(rest.ids))
        return reading(rest, *others)

    monkeypatch.setattr(slots.engine.decoder, "prefill", counting)

    said = ids_in_slots(slots, items)

    assert said == generated(family, items)
    assert read[1] == read[2] == read[3] < read[0] / 2


def test_two_rests_of_one_beginning_are_read_side_by_side(loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    items = [shots(family, picture) for picture in range(5)]
    slots = remade(family)

    ids_in_slots(slots, items[:1])
    said = ids_in_slots(slots, [*items[1:], asked(family)])

    assert said == generated(family, [*items[1:], asked(family)])


@pytest.mark.parametrize("kept", [0, 10_000_000])
def test_an_image_is_encoded_once_for_many_questions(kept: int, loaded_family: Load) -> None:
    family = loaded_family("idefics2")
    items = [asked(family, (0, 1), prompt=f"Question {n}") for n in range(3)]
    slots = remade(family, slots=1, features_bytes=kept)
    seen: list[int] = []
    see = slots.engine.encode_images

    def counting(pictures: Any) -> list[torch.Tensor]:
        seen.append(len(pictures))
        return see(pictures)

    slots.engine.encode_images = counting

    said = ids_in_slots(slots, items)

    assert said == generated(family, items)
    assert seen == ([2, 0, 0] if kept else [2, 2, 2])


@pytest.mark.parametrize("name", ["idefics2", "idefics3"])
def test_images_packed_without_padding_have_the_features_that_they_have_alone(
    name: str, loaded_family: Load
) -> None:
    family = loaded_family(name)
    pictures = [p for item in mixed(family) for p in item.inputs.images]
    with torch.inference_mode():
        together = family.architecture.encode_images(pictures, 32_768)
        few = family.architecture.encode_images(pictures, 40)
        alone = [family.architecture.encode_images([picture], 1)[0] for picture in pictures]

    for a, b, c in zip(together, few, alone, strict=True):
        assert torch.allclose(a, c, atol=1e-5)
        assert torch.allclose(b, c, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_confidence_and_beams_of_a_batch_invariant_model_do_not_depend_on_the_batch(
    dtype: Literal["float32", "bfloat16"], checkpoint: Callable[[str], Path]
) -> None:
    where = str(checkpoint("idefics2"))
    family = families.load(
        EngineSettings(model="m", model_path=where, dtype=dtype, slots=4, invariant=True)
    )
    assert isinstance(family, TransformersFamily)
    assert family.slot_engine
    prompts = ["a word " * (1 + 9 * (n % 4)) for n in range(8)]
    beams = [asked(family, (n,), prompt=p, options={"num_beams": 3}) for n, p in enumerate(prompts)]
    greedy = [asked(family, (n,), prompt=prompt) for n, prompt in enumerate(prompts)]

    alone = [family.generate([item])[0] for item in beams]
    certain = [in_slots(family.slot_engine, [item])[0].confidence for item in greedy]

    assert family.generate(beams) == alone
    assert [answer.confidence for answer in in_slots(family.slot_engine, greedy)] == certain


@pytest.mark.parametrize("name", ["idefics2", "idefics-base-resampler"])
def test_in_a_smaller_number_format_no_answer_depends_on_its_neighbours_to_the_last_bit(
    name: str, checkpoint: Callable[[str], Path]
) -> None:
    family = families.load(
        EngineSettings(
            model=name,
            model_path=str(checkpoint(name)),
            dtype="bfloat16",
            max_new_tokens=64,
            slots=4,
            invariant=True,
        )
    )
    assert isinstance(family, TransformersFamily)
    assert family.slot_engine, family.card.serving
    items = [
        asked(
            family, (n % 8,), prompt="a word " * (1 + 9 * (n % 4)), options={"max_new_tokens": 20}
        )
        for n in range(12)
    ]

    alone = [ids_in_slots(family.slot_engine, [item])[0] for item in items]

    assert ids_in_slots(family.slot_engine, items) == alone
    assert ids_in_slots(remade(family), items[::-1], at_once=3) == alone[::-1]


class TestWhatCannotBeServedInSlots:
    def test_it_is_served_by_generate_and_its_model_info_gives_the_reason(
        self, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def serving(name: str, **said: Any) -> str:
            family = families.load(
                EngineSettings(model=name, model_path=str(checkpoint(name)), **said)
            )
            assert family.card.serving
            assert (family.slot_engine is None) == (family.card.serving.path == "generate")
            return family.card.serving.why

        assert serving("idefics2") == ""
        assert serving("idefics2", engine="generate") == "the settings say so"
        said = "IDEFIQ_ATTENTION is eager; continuous batching brings its own attention"
        assert said in serving("idefics2", attention="eager")
        assert serving("ovis2") == "tokens around an image have features of their own"
        assert serving("gemma4") == "layers of its text model differ in their size"
        assert "layers (linear_attention)" in serving("qwen3.5")
        # What fits is compared, the rest is never put into a slot.
        assert serving("idefics2-splitting", slot_tokens=64) == ""
        monkeypatch.setattr(selfcheck, "TOKENS", 64)
        assert "64 tokens (IDEFIQ_SLOT_TOKENS)" in serving("idefics2-splitting", slot_tokens=64)

    def test_more_slots_than_fit_in_memory_are_refused_with_the_setting_to_change(
        self, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(batching, "build", full)
        settings = EngineSettings(model="m", model_path=str(checkpoint("idefics2")), slots=1024)

        with pytest.raises(RequestError, match=r"1024 slots of .* set IDEFIQ_SLOTS"):
            families.load(settings)

    def test_a_model_whose_batch_engine_disagrees_with_generate_uses_generate(
        self, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workers.decoding.embedded_images import EmbeddedImagesDecoder

        monkeypatch.setattr(
            EmbeddedImagesDecoder, "first_image_needed", lambda self, prompt, start: 0
        )
        monkeypatch.setattr(
            EmbeddedImagesDecoder,
            "decode_step",
            lambda self, tokens, positions, seen, cache: torch.ones(len(tokens), 64),
        )
        settings = EngineSettings(model="m", model_path=str(checkpoint("idefics2")))

        family = families.load(settings)

        assert family.slot_engine is None
        assert family.card.serving
        assert family.card.serving.why.startswith("answers in slots are not those of generate")


class TestFaults:
    def test_a_prefill_without_a_free_slot_fails_and_admits_nothing(
        self, loaded_family: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        family = loaded_family("idefics2")
        slots = remade(family, slots=3)
        items = mixed(family)
        see = slots.engine.encode_images

        def fails(pictures: Any) -> list[torch.Tensor]:
            raise MemoryError

        monkeypatch.setattr(slots.engine, "encode_images", fails)
        with pytest.raises(MemoryError):
            slots.admit(items[:3])
        monkeypatch.setattr(slots.engine, "encode_images", see)

        assert [answer.text for answer in in_slots(slots, items)] == [
            answer.text for item in items for answer in family.generate([item])
        ]

    def test_of_prompts_read_one_by_one_none_has_joined_if_one_fails(
        self, loaded_family: Load
    ) -> None:
        family = loaded_family("idefics2")
        slots = remade(family, slots=3, batch_invariant=True)
        good, bad = asked(family), asked(family, (1,))
        bad.inputs.tensors["input_ids"][0] = 10**6

        with pytest.raises(IndexError):
            slots.admit([good, bad])

        assert ids_in_slots(slots, [good]) == generated(family, [good])

    def test_an_active_sequence_can_be_dropped_and_started_again(self, loaded_family: Load) -> None:
        family = loaded_family("idefics2")
        slots = remade(family, slots=3, async_readback=True)
        slots.admit(mixed(family)[:3])
        slots.decode_step()

        slots.clear()

        assert ids_in_slots(slots, mixed(family)) == generated(family, mixed(family))

    @pytest.mark.parametrize("static_shapes", [False, True])
    def test_scores_that_are_no_numbers_are_an_error_and_spoil_nothing_after_it(
        self, static_shapes: bool, loaded_family: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        family = loaded_family("idefics2")
        slots = remade(family, slots=2, static_shapes=static_shapes, features_bytes=0)
        see = slots.engine.encode_images
        monkeypatch.setattr(
            slots.engine,
            "encode_images",
            lambda pictures: [one * torch.nan for one in see(pictures)],
        )
        [(_, said)] = slots.admit([asked(family)])
        monkeypatch.setattr(slots.engine, "encode_images", see)

        items = mixed(family)

        assert isinstance(said, EngineError)
        assert ids_in_slots(slots, items) == generated(family, items)


def test_the_tensor_cache_holds_its_limit_and_evicts_the_least_recently_used() -> None:
    kept = TensorCache(3 * 400)
    whole = torch.ones(100, 100)
    for number in range(3):
        kept.put(bytes([number]), [whole[number]])
    kept.get(bytes([0]))

    kept.put(bytes([3]), [whole[3]])

    assert [bytes([n]) in kept for n in range(4)] == [True, False, True, True]
    [tensor] = kept.get(bytes([3])) or []
    assert tensor.untyped_storage().nbytes() == 400
    kept.put(b"too large", [whole])
    assert b"too large" not in kept
